"""Answers that people were served and judged, as rollouts to learn from off-policy.

The store keeps every answer's token ids and the model's own log-probs (temperature 1, nothing cut off). What importance
weights need is the policy that really drew the answer. At temperature 1 without truncation the stored numbers are
those; at another temperature they are computed anew from that version's weights, if somebody can (`rescore`); an answer
drawn with top-p, top-k, min-p, penalties or a bias, or greedily, has no usable probability and is left out and counted.

A comparison gives +1 to the answer that was preferred and -1 to the other, a thumb ±1; rewards are centred over the
step, not the prompt, because most prompts were answered once (`GrpoConfig(baseline="none", scale="batch",
most_weight=2)`). Thumbs alone are no reward to lean on (flywheel.md §0.5): mix them with comparisons, and gate the
result. Knows rows and the store; nothing of losses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tutee.data.rows import PairRow, Reply, Row, Sampled, UnpairedRow
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.store import Store
from tutee.train.environments import Question
from tutee.train.options import require
from tutee.train.rewards import Answer
from tutee.train.rollout import Collected, Rollout

Rescore = Callable[[str, Sequence[int], float], Tensor | None]
"""(version id, prompt and answer, temperature) -> log-probs of tokens[1:] under that version; None: it is gone."""

NEUTRAL: Mapping[str, Any] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "logit_bias": {},
}
"""Settings under which the sampler draws from the model's own distribution."""


@dataclass(frozen=True, slots=True)
class Served:
    """Rollouts, and why other judged answers could not become some, by reason."""

    rollouts: tuple[Rollout, ...]
    left_out: Mapping[str, int]


def served_rollouts(store: Store, rows: Sequence[Row], model: Pretrained, rescore: Rescore | None = None) -> Served:
    """The judged answers of `rows` (`data.from_feedback.collect`) whose probabilities are known.

    Args:
        model: what will learn; answers in another tokenizer's or template's tokens are left out.
    """
    rollouts: list[Rollout] = []
    left_out: Counter[str] = Counter()
    numbers: dict[tuple[int, ...], int] = {}
    for row, reply, reward in _judged(rows):
        sampled = reply.sampled
        if sampled is None or reply.generation_id is None:
            left_out["not sampled as it stands"] += 1
            continue
        if (sampled.tokenizer_sha256, sampled.template_sha256) != (model.tokenizer.sha256, model.chat_format.sha256):
            left_out["another tokenizer or template"] += 1
            continue
        logprobs, why = _drawn_with(store, reply, sampled, rescore)
        if logprobs is None:
            left_out[why] += 1
            continue
        index = numbers.setdefault(sampled.prompt_ids, len(numbers))
        finished = sampled.finish_reason == "stop"
        answer = Answer(Question(row.prompt), sampled.prompt_ids, sampled.token_ids, reply.text, finished)
        rollouts.append(Rollout(index, answer, logprobs, -1, reward * row.weight, {"people": reward}))
    return Served(tuple(rollouts), dict(left_out))


def _judged(rows: Sequence[Row]) -> list[tuple[Row, Reply, float]]:
    out: list[tuple[Row, Reply, float]] = []
    for row in rows:
        if isinstance(row, PairRow):
            out += [(row, row.chosen, 1.0), (row, row.rejected, -1.0)]
        elif isinstance(row, UnpairedRow):
            out.append((row, row.reply, 1.0 if row.label else -1.0))
    return out


def _drawn_with(
    store: Store, reply: Reply, sampled: Sampled, rescore: Rescore | None
) -> tuple[tuple[float, ...] | None, str]:
    """(log-probs under the policy that drew the answer, why not)."""
    assert reply.generation_id is not None
    generation = store.generations.get(reply.generation_id)
    sampling = generation.sampling
    if any(sampling.get(name) not in (None, neutral) for name, neutral in NEUTRAL.items()):
        return None, "drawn from a truncated or changed distribution"
    temperature = float(sampling.get("temperature") or 0.0)
    if temperature == 0.0:
        return None, "drawn greedily"
    if temperature == 1.0:
        return sampled.logprobs, ""
    if rescore is None:
        return None, "drawn at another temperature"
    scored = rescore(generation.version_id, (*sampled.prompt_ids, *sampled.token_ids), temperature)
    if scored is None:
        return None, "its version is gone"
    return tuple(scored[len(sampled.prompt_ids) - 1 :].tolist()), ""


@dataclass(frozen=True, slots=True)
class ServedConfig:
    """How served answers are dealt into steps."""

    answers: int = 32
    """Answers a step."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.answers >= 1, "answers", "'answers' must be at least 1.")


class ServedSource:
    """Served rollouts in the place of a `Collector`: a fresh order each walk, a function of (seed, walk)."""

    def __init__(self, rollouts: Sequence[Rollout], config: ServedConfig) -> None:
        if not rollouts:
            raise InvalidInput(
                "No served answer can be learned from: none has both a judgement and a known probability.",
                param="data",
                code="empty_dataset",
            )
        self.config = config
        self._rollouts = tuple(rollouts)

    def collect(self, step: int, next_question: int, moving: bool = False) -> Collected:
        """The next `config.answers` answers; `next_question` counts answers already dealt."""
        chosen = [self._rollouts[self._place(next_question + i)] for i in range(self.config.answers)]
        metrics = {"reward": float(np.mean([rollout.reward for rollout in chosen]))}
        return Collected(tuple(chosen), next_question + len(chosen), metrics)

    def _place(self, number: int) -> int:
        walk, place = divmod(number, len(self._rollouts))
        return int(np.random.default_rng([self.config.seed, walk]).permutation(len(self._rollouts))[place])
