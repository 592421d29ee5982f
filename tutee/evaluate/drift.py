"""How far a candidate's answers have moved from the live version's: distance and length.

Works on answers already sampled and log-probabilities already computed; knows no model, engine or store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tutee import intervals
from tutee.data.wording import word_count


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
