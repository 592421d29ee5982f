"""Intervals are the published ones."""

import math

from tutee import intervals


def test_wilson_interval_against_published_values() -> None:
    estimate, lo, hi = intervals.share(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(lo, 4), round(hi, 4)) == (0.2553, 0.3662)
    assert estimate == 81 / 263
    assert intervals.share(0, 0)[1:] == (0.0, 1.0)


def test_difference_interval_against_published_values() -> None:
    difference, lo, hi = intervals.share_difference(56, 70, 48, 80)  # Newcombe 1998, table II: 0.0524 to 0.3339
    assert (round(difference, 4), round(lo, 4), round(hi, 4)) == (0.2, 0.0524, 0.3339)
    same = intervals.share_difference(5, 20, 5, 20)
    assert same[0] == 0
    assert same[1] < 0 < same[2]
    assert intervals.share_difference(0, 0, 0, 0) == (0.0, -1.0, 1.0)


def test_mean_interval_covers_and_empty_is_unknown() -> None:
    estimate, lo, hi = intervals.mean([0.0, 1.0] * 50)
    assert estimate == 0.5
    assert 0.38 < lo < 0.45 < 0.55 < hi < 0.62
    assert math.isnan(intervals.mean([])[0])
