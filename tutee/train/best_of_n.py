"""Best-of-n distillation: sample n answers, keep the best by a reward, imitate it.

Stiennon et al. 2020 (arXiv 2009.01325) sample best-of-n; Dong et al. 2023 (RAFT, arXiv 2304.06767) and Llama 2 (arXiv
2307.09288, §3.2.3, "rejection sampling") imitate what it chose. With y* = argmax_k r(x, y_k), y_1 … y_n ~ π:
    L = -Σ_x [Σ_t log π(y*_t | ·) / |y*|] / Σ_x 1
Sampling the best of n by any reward moves the policy by at most
    KL(best of n ‖ π) ≤ log n - (n - 1)/n nats an answer,
whatever the reward says, which is why this is the safest use of a reward that may be wrong (Gao et al. 2022, arXiv
2210.10760). A teacher in the place of π makes it sequence-level distillation (Kim & Rush 2016, arXiv 1606.07947).

An answer that was cut off is never imitated: it would teach not to end. A prompt whose answers all got one reward
teaches nothing and drops out. Each round of sampling leaves a file, so a broken-off run goes on where it was. Knows
rollouts and their rewards; the loss is SFT's, over answers alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tutee.train import parallel
from tutee.train.batch import Example, Group, Loss
from tutee.train.checkpoint import write_json
from tutee.train.metrics import Metrics
from tutee.train.options import require
from tutee.train.rollout import Collector, Rollout
from tutee.train.sft import sequence_mean_loss


@dataclass(frozen=True, slots=True)
class BestOfNConfig:
    """What is kept; how many answers are drawn to how many prompts is the rollouts' setting (`group`, `prompts`)."""

    rounds: int = 8
    """Times that a step's prompts are drawn before training."""
    keep: int = 1
    """Answers a prompt that are imitated, the best first."""
    least_gain: float = 0.0
    """An answer is kept if its reward is above its prompt's mean by more than this."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "rounds", "'rounds' must be at least 1.")
        require(self.keep >= 1, "keep", "'keep' must be at least 1.")
        require(self.least_gain >= 0, "least_gain", "'least_gain' must not be negative.")

    def loss(self) -> Loss:
        return sequence_mean_loss


@dataclass(frozen=True, slots=True)
class Best:
    """An answer to imitate. `gain` is how far its reward lies above the mean of its prompt's answers."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    gain: float

    def group(self) -> Group:
        mask = (*(0.0 for _ in self.prompt_ids), *(1.0 for _ in self.token_ids))
        return Group((Example(self.prompt_ids + self.token_ids, mask),))


def kl_bound(n: int) -> float:
    """Most nats an answer that best-of-n lies from the policy it is drawn from (Beirami et al. 2024, arXiv
    2401.01879)."""
    return math.log(n) - (n - 1) / n


def choose_best(rollouts: Sequence[Rollout], config: BestOfNConfig) -> tuple[list[Best], Metrics]:
    """The best answers to each prompt, and what they gain over the mean."""
    by_prompt: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        by_prompt.setdefault(rollout.index, []).append(rollout)
    best: list[Best] = []
    silent = 0
    for answers in by_prompt.values():
        mean = sum(rollout.reward for rollout in answers) / len(answers)
        whole = [
            rollout for rollout in answers if rollout.answer.finished and rollout.reward - mean > config.least_gain
        ]
        ordered = sorted(whole, key=lambda rollout: -rollout.reward)  # stable: the first drawn of equals
        distinct = {rollout.answer.token_ids: rollout for rollout in reversed(ordered)}
        chosen = sorted(distinct.values(), key=lambda rollout: -rollout.reward)[: config.keep]
        silent += not chosen
        best += [Best(r.answer.prompt_ids, r.answer.token_ids, r.reward - mean) for r in chosen]
    metrics = Metrics.ratio("gain", sum(item.gain for item in best), len(best))
    metrics += Metrics.ratio("silent_groups", silent, len(by_prompt))
    metrics += Metrics.ratio("best_tokens", sum(len(item.token_ids) for item in best), len(best))
    return best, metrics


def collect_best(
    collector: Collector,
    config: BestOfNConfig,
    folder: Path,
    on_round: Callable[[int, dict[str, float]], None] = lambda number, values: None,
) -> list[Group]:
    """The rows to imitate, from `config.rounds` rounds of the collector's prompts; rounds in `folder` are read instead.

    Args:
        on_round: called with (rounds done, what the round was like).
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: list[Group] = []
    question = 0
    for number in range(config.rounds):
        path = folder / f"{number:06d}.json"
        if not path.exists():
            # Step 0 throughout: the policy does not change between rounds.
            collected = collector.collect(0, question)
            best, metrics = choose_best(collected.rollouts, config)
            rows = [[item.prompt_ids, item.token_ids, item.gain] for item in best]
            values = {**collected.metrics, **metrics.values()}
            if parallel.current().first:
                write_json(path, {"next_question": collected.next_question, "rows": rows, "values": values})
            parallel.current().wait()
        kept = json.loads(path.read_text(encoding="utf-8"))
        question = kept["next_question"]
        groups += [Best(tuple(prompt), tuple(tokens), gain).group() for prompt, tokens, gain in kept["rows"]]
        on_round(number + 1, kept["values"])
    return groups
