from __future__ import annotations

import pytest

from tutee.engine.door import Door
from tutee.errors import Busy


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_full_queue_refuses_and_a_free_place_is_given_again() -> None:
    door = Door(2)
    door.enter(0, None)
    door.enter(0, None)
    with pytest.raises(Busy):
        door.enter(0, None)
    door.leave(0, None)
    door.enter(0, None)
    assert door.waiting == 2


def test_background_work_never_shuts_out_a_chat() -> None:
    door = Door(2)
    door.enter(10, None)
    door.enter(10, None)
    with pytest.raises(Busy):
        door.enter(10, None)
    door.enter(0, None)
    door.enter(0, None)
    with pytest.raises(Busy):
        door.enter(0, None)
    with pytest.raises(Busy):
        door.enter(10, None)


def test_no_owner_holds_more_than_is_left_free() -> None:
    door = Door(8)
    for _ in range(4):
        door.enter(0, "crowd")
    with pytest.raises(Busy, match="4 of your requests"):
        door.enter(0, "crowd")
    door.enter(0, "other")
    door.enter(0, "other")
    with pytest.raises(Busy):
        door.enter(0, "other")
    door.enter(0, "third")


def test_who_is_refused_is_told_the_pace_of_the_queue() -> None:
    clock = Clock()
    door = Door(3, clock)
    for _ in range(3):
        door.enter(0, None)
    for _ in range(10):
        clock.now += 4.0
        door.leave(0, None)
        door.enter(0, None)
    with pytest.raises(Busy) as caught:
        door.enter(0, None)
    assert caught.value.retry_after == pytest.approx(4.0)


def test_the_refused_are_told_different_moments_up_to_an_empty_queue() -> None:
    clock = Clock()
    door = Door(3, clock)
    for _ in range(3):
        door.enter(0, None)
    clock.now += 2.0
    door.leave(0, None)
    door.enter(0, None)
    told = []
    for _ in range(5):
        with pytest.raises(Busy) as caught:
            door.enter(0, None)
        told.append(caught.value.retry_after)
    assert told == pytest.approx([2.0, 4.0, 6.0, 6.0, 6.0])


def test_a_queue_in_which_nothing_moves_says_so() -> None:
    clock = Clock()
    door = Door(1, clock)
    door.enter(0, None)
    clock.now += 30.0
    with pytest.raises(Busy) as caught:
        door.enter(0, None)
    assert caught.value.retry_after == pytest.approx(30.0)


def test_an_idle_hour_is_not_the_pace_of_a_busy_minute() -> None:
    clock = Clock()
    door = Door(1, clock)
    door.enter(0, None)
    door.leave(0, None)
    clock.now += 3600.0
    door.enter(0, None)
    clock.now += 0.5
    with pytest.raises(Busy) as caught:
        door.enter(0, None)
    assert caught.value.retry_after == pytest.approx(1.0)
