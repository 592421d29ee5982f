import uuid

from tutee.ids import new_id


def test_an_id_is_a_uuid7_behind_its_prefix() -> None:
    prefix, _, hexadecimal = new_id("ftjob").partition("-")
    value = uuid.UUID(hexadecimal)
    assert prefix == "ftjob"
    assert (value.version, value.variant) == (7, uuid.RFC_4122)


def test_ids_do_not_repeat_and_sort_by_time() -> None:
    ids = [new_id("x") for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert [i[:14] for i in ids] == sorted(i[:14] for i in ids)
