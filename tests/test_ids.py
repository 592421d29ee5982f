import itertools
import uuid

import pytest

from tutee.ids import new_id


def test_an_id_is_a_uuid7_behind_its_prefix() -> None:
    prefix, _, hexadecimal = new_id("ftjob").partition("-")
    value = uuid.UUID(hexadecimal)
    assert prefix == "ftjob"
    assert (value.version, value.variant) == (7, uuid.RFC_4122)


def test_ids_do_not_repeat_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1_795_367_709_999_900_000, 250)  # nanoseconds, over the end of a second
    monkeypatch.setattr("time.time_ns", lambda: next(clock))
    ids = [new_id("x") for _ in range(20_000)]
    assert len(set(ids)) == 20_000
    assert ids == sorted(ids)
    assert int(ids[0].partition("-")[2][:12], 16) == 1_795_367_709_999
