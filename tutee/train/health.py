"""How a run goes, in one plain sentence, and the tripwires that end it before it spoils the policy.

Pure functions of a run's history (one dict of numbers a step). A tripwire compares the newest steps with the first
ones, because "shorter" and "more repetitive" mean something only beside where the run came from. Knows no trainer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tutee.errors import TuteeError
from tutee.train.options import require

WINDOW = 3
"""Steps whose mean is compared: the first so many, and the last."""
CHECKS = 5
"""Steps between two looks at whether the reward and a watched judge still agree."""

History = Sequence[dict[str, float]]
Bound = tuple[float, float] | None
"""(warn, stop); None: not watched."""


class Tripped(TuteeError):
    """A tripwire ended the run. The message says which and why; the checkpoint before it is kept."""

    default_code = "tripwire"


@dataclass(frozen=True, slots=True)
class Limits:
    """When to warn and when to stop; None switches a wire off. Numbers of `flywheel.md` §5."""

    kl: Bound = (8.0, 15.0)
    """Nats an answer away from the reference."""
    longer: Bound = (1.25, 1.5)
    """Mean length over that of the first steps. Verifiable tasks often must change their length: switch it off."""
    shorter: Bound = (0.8, 0.6)
    repetition: Bound = (0.1, 0.25)
    """Relative loss of distinct token pairs, or of distinct answers."""
    entropy: Bound = (0.3, 0.5)
    """Relative loss of the entropy a token."""
    mismatch: Bound = (0.05, 0.3)
    """Nats a token between the sampler's and the trainer's log-probs of the same weights. bfloat16 alone gives about
    0.02; a sampler that does not have the newest weights gives much more."""
    disagreement: Bound = (2, 3)
    """Looks in a row at which the reward rose and a watched judge (a reward of weight 0) fell."""
    watched: str | None = None
    """Name of that judge."""

    def __post_init__(self) -> None:
        for name in ("kl", "longer", "repetition", "entropy", "mismatch", "disagreement"):
            bound = getattr(self, name)
            require(bound is None or 0 < bound[0] <= bound[1], name, f"'{name}' warns after it stops.")
        require(self.shorter is None or self.shorter[0] >= self.shorter[1] > 0, "shorter", "'shorter' is upside down.")


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something to worry about; `stop` when it is too late for worry."""

    message: str
    stop: bool


def alarms(history: History, limits: Limits) -> list[Alarm]:
    """Every tripwire that the newest steps touch, those that stop the run first."""
    out: list[Alarm] = []
    kl = _recent(history, "kl")
    if kl is not None:
        out += _above(kl, limits.kl, f"The policy moved {kl:.1f} nats an answer away from where it started.")
    length = _ratio(history, "length")
    if length is not None:
        out += _above(length, limits.longer, f"Answers got {length:.2f} times as long as they were.")
        shorter = None if limits.shorter is None else (-limits.shorter[0], -limits.shorter[1])
        out += _above(-length, shorter, f"Answers got {length:.2f} times as long as they were.")
    for name, what in (("distinct_2", "distinct token pairs"), ("distinct_answers", "distinct answers")):
        kept = _ratio(history, name)
        if kept is not None:
            out += _above(1 - kept, limits.repetition, f"Answers repeat themselves: {1 - kept:.0%} fewer {what}.")
    entropy = _ratio(history, "entropy")
    if entropy is not None:
        lost = f"The policy is {1 - entropy:.0%} less uncertain a token than it was."
        out += _above(1 - entropy, limits.entropy, lost)
    gap = _recent(history, "sampler_gap")
    if gap is not None:
        out += _above(
            gap, limits.mismatch, f"Sampler and trainer disagree by {gap:.3f} nats a token on the same weights."
        )
    if limits.watched is not None:
        looks = _disagreements(history, f"reward/{limits.watched}")
        said = f"The reward rises while {limits.watched}, which nothing is optimised against, falls ({looks} looks)."
        out += _above(looks, limits.disagreement, said)
    return sorted(out, key=lambda alarm: not alarm.stop)


def _above(value: float, bound: Bound, message: str) -> list[Alarm]:
    if bound is None or value < bound[0]:
        return []
    return [Alarm(message, value >= bound[1])]


def _recent(history: History, name: str) -> float | None:
    values = [values[name] for values in history[-WINDOW:] if name in values]
    return float(np.mean(values)) if len(history) >= WINDOW and values else None


def _ratio(history: History, name: str) -> float | None:
    """The newest steps' mean over the first steps'; None while these are the same steps."""
    if len(history) < 2 * WINDOW:
        return None
    first = [values[name] for values in history[:WINDOW] if name in values]
    last = _recent(history, name)
    if not first or last is None or np.mean(first) <= 0:
        return None
    return last / float(np.mean(first))


def _disagreements(history: History, name: str) -> int:
    """How many of the newest looks in a row saw the reward rise and the watched one fall."""
    pairs = [(values["reward"], values[name]) for values in history if name in values and "reward" in values]
    means = [np.mean(pairs[i : i + CHECKS], axis=0) for i in range(0, len(pairs) - CHECKS + 1, CHECKS)]
    count = 0
    for before, now in pairwise(means):
        count = count + 1 if now[0] > before[0] and now[1] < before[1] else 0
    return count


def reinforcement_health(history: History, limits: Limits) -> str:
    """One plain sentence on a reinforcement run, the most worrying first."""
    last = history[-1]
    flat = _recent(history, "zero_variance_groups")
    found = alarms(history, limits)
    if last.get("skipped_steps"):
        return f"{int(last['skipped_steps'])} updates were not finite and were skipped: lower the learning rate."
    if any(alarm.stop for alarm in found):
        return found[0].message
    if last.get("reward_failures"):
        return f"The reward failed {int(last['reward_failures'])} times so far: look at its log."
    kl = _recent(history, "kl")
    if kl is not None and kl < -0.5:
        return f"The KL is {kl:.2f}; a mean below 0 is impossible: sampler, policy and reference do not fit together."
    if flat is not None and flat > 0.5:
        return f"All rewards are equal in {flat:.0%} of groups: no signal; raise the temperature or change the task."
    if found:
        return found[0].message
    clipped = _recent(history, "clip_fraction")
    if clipped is not None and clipped > 0.3:
        return f"{clipped:.0%} of tokens are clipped: too many updates a step, or too high a learning rate."
    first, now = history[:WINDOW], _recent(history, "reward")
    if now is not None and len(history) >= 2 * WINDOW:
        before = float(np.mean([values["reward"] for values in first if "reward" in values]))
        moved = abs(now - before) > 1e-3
        return f"The mean reward went from {before:.3f} to {now:.3f}." if moved else "The reward stays."
    return ""


def supervised_health(history: History) -> str:
    """One plain sentence on a run over fixed data (`loop.train`), the most worrying first."""
    last, recent = history[-1], history[-10:]
    if not math.isfinite(last["grad_norm"]):
        return "This step was not finite and was skipped; nothing was learned from it."
    if last["skipped_steps"]:
        return f"{int(last['skipped_steps'])} steps were not finite and were skipped: lower the learning rate."
    if "reward_accuracy" in last and len(recent) == 10:
        accuracy = float(np.mean([values["reward_accuracy"] for values in recent if "reward_accuracy" in values]))
        return f"The model tells chosen from rejected in {accuracy:.0%} of the last pairs."
    if len(history) >= 20:
        before = float(np.mean([values["loss"] for values in history[:10]]))
        now = float(np.mean([values["loss"] for values in recent]))
        return f"The loss went from {before:.2f} to {now:.2f}." if now < before else "The loss is not falling."
    return ""
