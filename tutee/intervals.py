"""95 % intervals for shares, means and differences. Knows numbers only.

Nothing here is valid under peeking; votes that come in one by one belong to `votes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959964


def share(hits: float, n: int) -> tuple[float, float, float]:
    """A share with its Wilson (1927) interval: (estimate, lo, hi). With n = 0: (nan, 0, 1)."""
    if n == 0:
        return math.nan, 0.0, 1.0
    p = hits / n
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return p, max(0.0, centre - half), min(1.0, centre + half)


def mean(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """A mean with its percentile bootstrap interval (of differences: a paired one). n = 0: (nan, -inf, inf)."""
    if len(values) == 0:
        return math.nan, -math.inf, math.inf
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), size=(resamples, len(array)))
    lo, hi = np.quantile(array[picks].mean(axis=1), [0.025, 0.975])
    return float(array.mean()), float(lo), float(hi)


def share_difference(hits: int, n: int, hits_before: int, n_before: int) -> tuple[float, float, float]:
    """Rise of a share, with Newcombe's (1998, method 10) interval from the two Wilson ones. Nothing asked: (0, -1, 1).

    Over the same items twice it leaves out their correlation and so errs on the wide side.
    """
    if n == 0 or n_before == 0:
        return 0.0, -1.0, 1.0
    p1, lo1, hi1 = share(hits, n)
    p0, lo0, hi0 = share(hits_before, n_before)
    difference = p1 - p0
    return difference, difference - math.hypot(p1 - lo1, hi0 - p0), difference + math.hypot(hi1 - p1, p0 - lo0)


def matched_difference(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of differences between two shares of the same item, each within [-1, 1], with its interval.

    Agresti and Min (2005): as if half an item more had risen from 0 to 1, half a one fallen, and one stayed; so it
    keeps some width when no item changed, which a bootstrap does not. Nothing asked: (0, -1, 1).
    """
    n = len(differences)
    if n == 0:
        return 0.0, -1.0, 1.0
    centre = sum(differences) / (n + 2)
    variance = (sum(d * d for d in differences) + 1) / (n + 2) - centre**2
    half = _Z * math.sqrt(variance / (n + 2))
    return sum(differences) / n, max(-1.0, centre - half), min(1.0, centre + half)
