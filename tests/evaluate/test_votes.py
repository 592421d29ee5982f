"""The vote test holds its promises under peeking, and the numbers beside it mean what they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutee.evaluate.votes import (
    Vote,
    confidence_sequence,
    e_value,
    length_controlled_win_rate,
    more_votes_needed,
    tally,
)


def first_pass(rate: float, votes: int, runs: int, seed: int) -> list[int | None]:
    """For each simulated run, the vote after which somebody who peeks every time would promote, or None."""
    table = {(w, n - w): e_value(w, n - w) for n in range(votes + 1) for w in range(n + 1)}
    stops: list[int | None] = []
    for row in np.random.default_rng(seed).random((runs, votes)) < rate:
        wins = np.cumsum(row)
        stops.append(
            next((n for n in range(1, votes + 1) if table[int(wins[n - 1]), n - int(wins[n - 1])] >= 20), None)
        )
    return stops


@pytest.mark.parametrize("rate", [0.5, 0.45])
def test_a_worthless_candidate_rarely_passes_though_every_vote_is_peeked_at(rate: float) -> None:
    stops = first_pass(rate, votes=300, runs=2000, seed=1)
    assert sum(stop is not None for stop in stops) / len(stops) <= 0.05


def test_a_real_improvement_passes_with_thirty_to_sixty_votes() -> None:
    stops = [stop or 1000 for stop in first_pass(0.72, votes=120, runs=1000, seed=2)]
    assert np.median(stops) <= 40
    assert np.quantile(stops, 0.8) <= 65


def test_expected_e_value_under_the_null_is_one() -> None:
    n = 30
    mean = sum(math.comb(n, w) * 0.5**n * e_value(w, n - w) for w in range(n + 1))
    assert mean == pytest.approx(1.0, abs=1e-9)


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_win_raises_the_e_value_and_a_loss_lowers_it(wins: int, losses: int) -> None:
    now = e_value(wins, losses)
    assert e_value(wins + 1, losses) > now > e_value(wins, losses + 1)


@given(st.integers(0, 300), st.integers(0, 300))
def test_confidence_sequence_holds_the_win_rate_and_mirrors(wins: int, losses: int) -> None:
    lo, hi = confidence_sequence(wins, losses)
    assert 0 <= lo <= hi <= 1
    if wins + losses:
        assert lo <= wins / (wins + losses) <= hi
    assert confidence_sequence(losses, wins) == pytest.approx((1 - hi, 1 - lo), abs=1e-6)


def test_confidence_sequence_covers_at_every_look() -> None:
    misses = 0
    for row in np.random.default_rng(3).random((200, 100)) < 0.65:
        wins = np.cumsum(row)
        looks = (confidence_sequence(int(wins[n]), n + 1 - int(wins[n])) for n in range(100))
        misses += any(not lo <= 0.65 <= hi for lo, hi in looks)
    assert misses / 200 <= 0.05


def test_more_votes_needed_is_the_first_number_that_reaches_the_threshold() -> None:
    more = more_votes_needed(20, 8, 20.0)
    assert more is not None
    assert more > 0
    rate = (20 + 4 * 0.7) / 32
    assert (
        e_value(20 + more * rate, 8 + more * (1 - rate))
        >= 20
        > e_value(20 + (more - 1) * rate, 8 + (more - 1) * (1 - rate))
    )
    assert more_votes_needed(100, 20, 20.0) == 0
    assert more_votes_needed(10, 30, 20.0) is None


def test_tally_counts_ties_without_using_them() -> None:
    votes = [Vote("ada", "candidate"), Vote("ada", "tie"), Vote("bob", "both_bad"), Vote("bob", "live")]
    count = tally(votes)
    assert (count.wins, count.losses, count.ties, count.both_bad, count.people, count.decisive) == (1, 1, 1, 1, 2, 2)
    assert count.e_value == e_value(1, 1)
    assert count.weakest_e_value is None
    empty = tally([])
    assert (empty.e_value, empty.ci_lo, empty.ci_hi) == (1.0, 0.0, 1.0)
    assert math.isnan(empty.win_rate)


def test_the_weakest_e_value_leaves_out_whoever_carries_the_result() -> None:
    votes = [Vote("fan", "candidate")] * 30 + [Vote("b", "candidate"), Vote("b", "live"), Vote("c", "live")]
    count = tally(votes)
    assert count.e_value > 20
    assert count.weakest_without == "fan"
    assert count.weakest_e_value == e_value(1, 2)


def test_length_control_separates_length_from_quality() -> None:
    rng = np.random.default_rng(5)

    def votes(length_matters: float, better: float) -> list[Vote]:
        out = []
        for ratio in rng.normal(-0.5, 0.5, size=400):
            won = rng.random() < 1 / (1 + math.exp(-(better - length_matters * ratio)))
            out.append(Vote("a", "candidate" if won else "live", round(60 * math.exp(ratio)), 60))
        return out

    only_shorter = length_controlled_win_rate(votes(3.0, 0.0))
    really_better = length_controlled_win_rate(votes(0.0, 1.0))
    assert only_shorter is not None
    assert abs(only_shorter - 0.5) < 0.1
    assert really_better is not None
    assert really_better > 0.65
    assert length_controlled_win_rate([Vote("a", "candidate", 50, 50)] * 30) is None
