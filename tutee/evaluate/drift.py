"""How far a candidate's answers have moved from the live version's: distance, length, repetition, endings.

Works on answers already sampled and log-probabilities already computed; knows no model, engine or store.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tutee.evaluate import intervals

SHORT_WORDS = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer; `finished` says that the model ended it, not the token limit."""

    text: str
    finished: bool


def kl_per_reply(candidate: Sequence[ArrayLike], live: Sequence[ArrayLike]) -> tuple[float, float, float]:
    """KL(candidate || live) in nats per reply, from answers sampled from the candidate.

    Args:
        candidate, live: per answer, the log-probability of each sampled token under the two versions.

    Per token (r - 1) - log r with r = p_live / p_candidate, summed over a reply: unbiased and never negative
    (Schulman, "Approximating KL divergence", estimator k3). Log-ratios are clamped at ±20 against overflow.
    """
    replies = []
    for ours, theirs in zip(candidate, live, strict=True):
        log_ratio = np.clip(np.asarray(theirs, dtype=np.float64) - np.asarray(ours, dtype=np.float64), -20, 20)
        replies.append(float(np.sum(np.expm1(log_ratio) - log_ratio)))
    return intervals.mean(replies)


def word_count(text: str) -> int:
    """Words as people count them: runs without white space."""
    return len(text.split())


def length_quantiles(texts: Sequence[str]) -> dict[str, float]:
    """Words per answer at the 5, 25, 50, 75 and 95 % quantiles (`q05` …); empty for no texts."""
    if not texts:
        return {}
    levels = (5, 25, 50, 75, 95)
    values = np.quantile([word_count(text) for text in texts], [level / 100 for level in levels])
    return {f"q{level:02d}": float(value) for level, value in zip(levels, values, strict=True)}


def length_ratio(candidate: Sequence[str], live: Sequence[str]) -> float:
    """Median words of the candidate's answers over the live version's (both at least one word)."""
    return float(
        max(1.0, np.median([word_count(t) for t in candidate])) / max(1.0, np.median([word_count(t) for t in live]))
    )


def short_count(texts: Sequence[str]) -> int:
    """Answers under 8 words: what length collapse looks like."""
    return sum(word_count(text) < SHORT_WORDS for text in texts)


def distinct_2(text: str) -> float:
    """Share of a reply's word pairs that occur once; 1.0 for fewer than two words. Loops push it down."""
    words = re.findall(r"\w+", text.lower())
    pairs = list(itertools.pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
