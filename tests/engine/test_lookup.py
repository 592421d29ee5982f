from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutee.engine.lookup import WIDTH, Lookup


def test_it_goes_on_as_it_did_the_last_time() -> None:
    lookup = Lookup()
    tokens = [1, 2, 3, 4, 5, 9, 1, 2, 3]
    assert lookup.guess(tokens, 2) == (4, 5)
    tokens += [7, 8, 1, 2, 3]
    assert lookup.guess(tokens, 4) == (7, 8, 1, 2)


def test_what_never_occurred_is_not_guessed() -> None:
    lookup = Lookup()
    assert lookup.guess([1, 2, 3], 5) == ()
    assert lookup.guess([1, 2, 3, 4], 5) == ()
    assert Lookup().guess([1, 2], 5) == ()


@pytest.mark.parametrize("most", [0, -3])
def test_no_room_is_no_guess(most: int) -> None:
    assert Lookup().guess([1, 2, 3, 1, 2, 3], most) == ()


def test_a_short_period_is_guessed_in_full_length() -> None:
    assert Lookup().guess([5, 6] * 3, 7) == (5, 6, 5, 6, 5, 6, 5)
    assert Lookup().guess([4] * 4, 3) == (4, 4, 4)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 6))
def test_growing_tokens_are_guessed_as_if_seen_at_once(tokens: list[int], most: int) -> None:
    growing = Lookup()
    for end in range(1, len(tokens) + 1):
        guess = growing.guess(tokens[:end], most)
        assert guess == Lookup().guess(tokens[:end], most)
        before = [at for at in range(WIDTH, end) if tokens[at - WIDTH : at] == tokens[max(end - WIDTH, 0) : end]]
        assert len(guess) == (most if before else 0)
        if before:
            known = min(most, end - before[-1])
            assert guess[:known] == tuple(tokens[before[-1] : before[-1] + known])


def test_the_chance_follows_the_record_and_recovers() -> None:
    lookup = Lookup()
    begin = lookup.chance
    for _ in range(20):
        lookup.record(right=0, guessed=4)
    low = lookup.chance
    assert low < 0.2 < begin
    for _ in range(100):
        lookup.record(right=0, guessed=0)
    assert lookup.chance > (low + begin) / 2
    for _ in range(50):
        lookup.record(right=8, guessed=8)
    assert lookup.chance > 0.95


def test_what_was_behind_a_wrong_guess_was_not_tried() -> None:
    early, late = Lookup(), Lookup()
    early.record(right=3, guessed=4)
    late.record(right=3, guessed=40)
    assert early.chance == late.chance
