"""Did the policy go too far? Measured on fresh answers, against the base and against what people chose.

The gate asks this again, with more evidence, after training; here it decides how much of the adapter to keep. Scaling a
LoRA by λ moves the weights along the line from base to policy (Wortsman et al. 2022 for the idea), so distance,
length and repetition fall back together. Knows answers and numbers; does not sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tutee import intervals
from tutee.data.wording import SHORT_WORDS, distinct_2, short_count, short_share, word_count

TRIES = 4
"""Scales measured at most, the whole adapter first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond these the adapter is scaled back."""

    max_kl: float
    """Nats a reply."""
    distinct_loss: float = 0.1
    """Relative loss of distinct word pairs within a reply: loops."""
    short_share: float = 0.035
    """Answers under 8 words, unless the base gives more, or people clearly chose more. (About what the gate accepts at
    its lower temperature.)"""
    length_low: float = 0.6
    length_high: float = 1.5
    """Median words relative to the base; further is right only where people chose that length."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What a handful of answers looks like. `kl` is mean Σ log π/π_base over replies sampled from π, in nats."""

    kl: float
    words: float
    short_share: float
    distinct_2: float
    finished: float

    def metrics(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}_{name}": value for name, value in asdict(self).items()}


def drift(texts: Sequence[str], finished: Sequence[bool], kl: Sequence[float] = (0.0,)) -> Drift:
    """Measure answers. `kl` holds Σ log π/π_base of each; the base itself has none."""
    return Drift(
        kl=float(np.mean(kl)),
        words=float(np.median([word_count(text) for text in texts])),
        short_share=short_share(texts),
        distinct_2=float(np.mean([distinct_2(text) for text in texts])),
        finished=float(np.mean(finished)),
    )


def complaints(policy: Drift, base: Drift, chosen_texts: Sequence[str], limits: Limits) -> list[str]:
    """What is wrong with the policy, in plain words; empty when nothing is."""
    out = []
    if policy.kl > limits.max_kl:
        out.append(f"it moved {policy.kl:.1f} nats a reply away from the base (limit {limits.max_kl:.0f})")
    if policy.distinct_2 < base.distinct_2 * (1 - limits.distinct_loss):
        out.append(
            f"its answers repeat themselves ({policy.distinct_2:.2f} distinct word pairs, base {base.distinct_2:.2f})"
        )
    _, chosen_short, _ = intervals.share(short_count(chosen_texts), len(chosen_texts))
    if policy.short_share > max(limits.short_share, base.short_share, chosen_short):
        out.append(f"{policy.short_share:.0%} of its answers have fewer than {SHORT_WORDS} words")
    counts = [word_count(text) for text in chosen_texts]
    low, high = np.quantile(counts, [0.05, 0.95]) if counts else (np.inf, -np.inf)
    ratio = policy.words / max(1.0, base.words)
    if not limits.length_low <= ratio <= limits.length_high and not low <= policy.words <= high:
        out.append(f"its answers have {policy.words:.0f} words, the base's {base.words:.0f}, and nobody chose such")
    return out


def next_scale(scale: float, policy: Drift, limits: Limits) -> float:
    """What to try after a complaint at `scale`.

    Near the base KL grows with the square of the scale (its first-order term is zero), which says at once how much may
    be kept; where KL is within its limit, the others are approached by steps of 15 %.
    """
    if policy.kl <= limits.max_kl:
        return scale * 0.85
    return scale * max(0.3, math.sqrt(0.9 * limits.max_kl / policy.kl))
