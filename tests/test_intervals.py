"""Intervals are the published ones."""

import math

import pytest

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


def test_matched_difference_is_the_adjusted_wald_interval() -> None:
    """Agresti and Min 2005: Wald's interval of the table of pairs with half a pair added to each of its four cells."""
    rose, fell, same = 7, 1, 13
    n = rose + fell + same + 2
    b, c = rose + 0.5, fell + 0.5
    half = 1.959964 / n * math.sqrt(b + c - (b - c) ** 2 / n)
    found = intervals.matched_difference([1.0] * rose + [-1.0] * fell + [0.0] * same)
    assert found == pytest.approx((6 / 21, (b - c) / n - half, (b - c) / n + half))
    assert intervals.matched_difference([]) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize(("rise", "fall"), [(0.1, 0.1), (0.3, 0.05), (0.02, 0.0), (0.5, 0.1)])
def test_matched_difference_covers(rise: float, fall: float) -> None:
    """Exactly, over every outcome of twenty pairs: the true difference is inside about 95 times of 100."""
    n, covered = 20, 0.0
    for rose in range(n + 1):
        for fell in range(n + 1 - rose):
            ways = math.comb(n, rose) * math.comb(n - rose, fell)
            _, lo, hi = intervals.matched_difference([1.0] * rose + [-1.0] * fell + [0.0] * (n - rose - fell))
            if lo <= rise - fall <= hi:
                covered += ways * rise**rose * fall**fell * (1 - rise - fall) ** (n - rose - fell)
    assert covered > 0.93
