"""Does the version side with people on comparisons and corrections that it never saw?

Compares log-probabilities of given texts under versions. Knows nothing of how the texts were frozen or what a gate
makes of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tutee import intervals
from tutee.conversation import Message
from tutee.data.rows import PairRow, SftRow
from tutee.evaluate.subject import Subject

Reward = Callable[[Sequence[Message], str], float]
"""Score of an answer to a conversation, learned from training feedback; only differences mean something."""


def log_ratio_margins(candidate: Subject, base: Subject, pairs: Sequence[PairRow]) -> list[float]:
    """log-ratio of chosen minus that of rejected, in nats: the reward that DPO says the version has learned, over β.

    Rafailov et al. (2023), equation 5; the ratio is against `base`, summed over the answer's tokens.
    """
    texts = [
        side
        for pair in pairs
        for side in (_said(pair.prompt, pair.chosen.text), _said(pair.prompt, pair.rejected.text))
    ]
    ours, theirs = candidate.score_texts(texts), base.score_texts(texts)
    ratios = [sum(a) - sum(b) for a, b in zip(ours, theirs, strict=True)]
    return [chosen - rejected for chosen, rejected in zip(ratios[::2], ratios[1::2], strict=True)]


def accuracy(margins: Sequence[float]) -> tuple[float, float, float]:
    """Share of positive margins (a zero is half right) with its interval."""
    hits = sum(margin > 0 for margin in margins) + sum(margin == 0 for margin in margins) / 2
    return intervals.share(hits, len(margins))


def reward_margins(reward: Reward, pairs: Sequence[PairRow]) -> list[float]:
    """How much better the reward finds the chosen answers."""
    return [reward(pair.prompt, pair.chosen.text) - reward(pair.prompt, pair.rejected.text) for pair in pairs]


def correction_gains(candidate: Subject, live: Subject, rows: Sequence[SftRow]) -> list[float]:
    """Nats per token that each text written by a person gained over the live version."""
    ours = candidate.score_texts([row.messages for row in rows])
    theirs = live.score_texts([row.messages for row in rows])
    return [(sum(a) - sum(b)) / len(a) for a, b in zip(ours, theirs, strict=True)]


def _said(prompt: Sequence[Message], text: str) -> list[Message]:
    history = [
        Message(m.role, m.content, m.name, m.tool_calls, m.tool_call_id, 0.0) if m.role == "assistant" else m
        for m in prompt
    ]
    return [*history, Message("assistant", text)]
