from __future__ import annotations

import io

import pytest

from tests.store.conftest import everything
from tutee.errors import InvalidInput, NotFound, TooLarge, Unavailable
from tutee.store import Store
from tutee.store.schema import Actor


def test_a_file_comes_back_and_equal_contents_share_a_place(store: Store, owner: Actor, guest: Actor) -> None:
    mine = store.files.add(b"one\ntwo\n", "../../etc/passwd", "fine-tune", owner.id)
    theirs = store.files.add(io.BytesIO(b"one\ntwo\n"), "x.jsonl", "fine-tune", guest.id)
    assert (mine.bytes, mine.sha256, mine.filename) == (8, theirs.sha256, "../../etc/passwd")
    assert [path.name for path in (store.home / "files").iterdir()] == [mine.sha256]
    with store.files.open(mine.id, owner.id) as stream:
        assert stream.read() == b"one\ntwo\n"

    store.files.delete(mine.id, owner.id)
    assert store.files.path(theirs.id, guest.id).read_bytes() == b"one\ntwo\n"
    store.files.delete(theirs.id, guest.id)
    assert list((store.home / "files").iterdir()) == []


def test_foreign_and_missing_files_are_not_found(store: Store, owner: Actor, guest: Actor) -> None:
    file = store.files.add(b"x", "x", "fine-tune", owner.id)
    for call in (store.files.get, store.files.open, store.files.delete, store.files.path):
        for id, actor in ((file.id, guest.id), ("file-none", owner.id)):
            with pytest.raises(NotFound) as refused:
                call(id, actor)
            assert refused.value.code == "file_not_found"
    store.files.path(file.id).unlink()
    with pytest.raises(NotFound):
        store.files.open(file.id, owner.id)


def test_who_deletes_a_file_that_was_deleted_meanwhile_is_told(
    store: Store, owner: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.files.add(b"x", "x", "fine-tune", owner.id)
    seen_before = store.files.get(file.id)
    store.files.delete(file.id, owner.id)
    monkeypatch.setattr(store.files, "get", lambda *_: seen_before)
    with pytest.raises(NotFound) as refused:
        store.files.delete(file.id, owner.id)
    assert refused.value.code == "file_not_found"


def test_a_file_too_large_or_unreadable_leaves_nothing(store: Store, owner: Actor) -> None:
    class Torn(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(28, "No space left on device")
            return super().read(10)

    before = everything(store)
    with pytest.raises(TooLarge):
        store.files.add(io.BytesIO(b"x" * 100), "x", "fine-tune", owner.id, max_bytes=99)
    with pytest.raises(Unavailable):
        store.files.add(Torn(b"x" * 100), "x", "fine-tune", owner.id)
    with pytest.raises(InvalidInput):
        store.files.add(b"x", "", "fine-tune", owner.id)
    assert everything(store) == before
    assert list((store.home / "files").iterdir()) == []


def test_lists_filter_and_page_in_both_orders(store: Store, owner: Actor, guest: Actor) -> None:
    made = [store.files.add(bytes([i]), f"{i}", "fine-tune" if i % 2 else "batch", owner.id).id for i in range(4)]
    store.files.add(b"g", "g", "batch", guest.id)
    assert [file.id for file in store.files.list(owner.id)] == made[::-1]
    assert [file.id for file in store.files.list(owner.id, order="asc", after=made[1])] == made[2:]
    assert [file.id for file in store.files.list(owner.id, purpose="batch", order="asc")] == made[::2]
    assert store.files.list(owner.id, limit=3).has_more
    with pytest.raises(InvalidInput):
        store.files.list(owner.id, order="sideways")  # type: ignore[arg-type]
