"""Candidates: several answers to each of the users' prompts, sampled from the policy as it is now.

Their own sampler's log-probs are kept: they are the reference of the preference loss, so no second model and no
second pass is needed. Written to the job folder in chunks, so that a broken-off job loses at most one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tutee.conversation import Message
from tutee.engine.request import Completion, SamplingParams
from tutee.model.pretrained import Pretrained
from tutee.train.checkpoint import write_json
from tutee.train.features import Described

CHUNK = 24
"""Prompts sampled between two writes; at sixteen answers each this keeps a batch of 64 full most of the time."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer. `logprobs` are the sampler's, at temperature 1, one for each of `token_ids`."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool

    def described(self, prompt: str) -> Described:
        """The answer as the features see it."""
        return Described(prompt, self.text, self.finished, float(np.mean(self.logprobs)))


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How candidates are drawn; the seed of each answer depends on this, its prompt's place and its own, nothing
    else."""

    count: int
    temperature: float
    max_tokens: int
    seed: int

    def params(self, prompt: int) -> SamplingParams:
        return SamplingParams(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=(self.seed * 1_000_003 + prompt) * 1_000,
            logprobs=0,
        )


def training_prompts(
    model: Pretrained,
    labelled: Iterable[Sequence[Message]],
    others: Iterable[Sequence[Message]],
    most: int,
    max_tokens: int,
    seed: int,
) -> list[tuple[tuple[Message, ...], tuple[int, ...]]]:
    """At most `most` different prompts with their rendered ids, those that people labelled first, in shuffled order.

    A prompt that leaves no room in the context for `max_tokens` of answer is passed over.
    """
    chosen: dict[tuple[int, ...], tuple[Message, ...]] = {}
    room = model.config.max_position_embeddings - max_tokens
    for source in (labelled, others):
        fresh = {tuple(model.chat_format.render(messages)): tuple(messages) for messages in source}
        ids = sorted(key for key in fresh if key not in chosen and len(key) <= room)
        order = np.random.default_rng(seed).permutation(len(ids))
        chosen |= {ids[i]: fresh[ids[i]] for i in order}
    return [(messages, ids) for ids, messages in chosen.items()][:most]


def sample_candidates(
    sample: Callable[[list[tuple[int, ...]], list[SamplingParams]], list[list[Completion]]],
    prompts: Sequence[tuple[int, ...]],
    plan: SamplingPlan,
    folder: Path,
    on_prompts: Callable[[int, int], None],
) -> list[list[Candidate]]:
    """`plan.count` answers to each prompt; chunks already in `folder` are read instead of sampled.

    Args:
        sample: (prompts, params) -> completions, `plan.count` a prompt.
        on_prompts: called with (prompts done, prompts in all) after each chunk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers: list[list[Candidate]] = []
    for start in range(0, len(prompts), CHUNK):
        path = folder / f"{start:06d}.json"
        part = list(prompts[start : start + CHUNK])
        if not path.exists():
            drawn = sample(part, [plan.params(start + i) for i in range(len(part))])
            write_json(
                path, [[asdict(_candidate(ids, c)) for c in group] for ids, group in zip(part, drawn, strict=True)]
            )
        answers += [[_read(item) for item in group] for group in json.loads(path.read_text(encoding="utf-8"))]
        on_prompts(len(answers), len(prompts))
    return answers


def _candidate(prompt_ids: tuple[int, ...], completion: Completion) -> Candidate:
    finished = completion.finish_reason == "stop"
    return Candidate(prompt_ids, completion.token_ids, completion.logprobs, completion.text, finished)


def _read(item: dict[str, object]) -> Candidate:
    return Candidate(**{k: tuple(v) if isinstance(v, list) else v for k, v in item.items()})  # type: ignore[arg-type]
