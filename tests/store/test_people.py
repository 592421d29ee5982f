"""Actors, consent, keys, the audit chain, stored completions."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from tests.store.conftest import everything
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.keys import usable
from tutee.store.schema import Actor


def test_an_actor_is_made_once_however_many_ask(store: Store) -> None:
    found: list[Actor] = []
    threads = [
        threading.Thread(target=lambda: found.append(store.actors.get_or_create("ann", "trainer"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({actor.id for actor in found}) == 1
    assert len(found) == 8
    assert store.actors.get(found[0].id).kind == "trainer"
    assert [actor.handle for actor in store.actors.list()] == ["ann"]
    assert store.actors.by_handle("bob") is None


def test_bad_actors_are_refused(store: Store) -> None:
    for handle, kind in (("", "user"), ("x" * 101, "user"), ("a\nb", "user"), ("ann", "robot")):
        with pytest.raises(InvalidInput):
            store.actors.get_or_create(handle, kind)
    with pytest.raises(NotFound):
        store.actors.get("actor-none")


def test_only_the_owners_chats_train_by_default_and_the_last_word_counts(
    store: Store, owner: Actor, guest: Actor
) -> None:
    assert (owner.kind, guest.kind) == ("admin", "user")
    assert store.consents.all("train") == {owner.id: True, guest.id: False}
    assert store.consents.all("store") == {owner.id: True, guest.id: True}
    assert store.consents.all("share") == {owner.id: False, guest.id: False}
    for granted in (True, False, True):
        store.consents.set(guest.id, "train", granted, policy_version="1")
        assert store.consents.granted(guest.id, "train") is granted
    store.consents.set(owner.id, "train", False)
    assert store.consents.all("train") == {owner.id: False, guest.id: True}
    assert not store.consents.granted(guest.id, "share")
    assert len(everything(store)["consent"]) == 4
    with pytest.raises(InvalidInput):
        store.consents.set(guest.id, "everything", True)
    with pytest.raises(NotFound):
        store.consents.granted("actor-none", "train")


def test_a_key_is_kept_as_a_hash_and_can_be_revoked(store: Store, owner: Actor) -> None:
    key, row = store.keys.add(owner.id, "laptop")
    assert key not in repr(everything(store))
    assert store.keys.find(key).id == row.id  # type: ignore[union-attr]
    assert store.keys.find(key + "x") is None
    assert key.startswith(row.prefix)
    assert usable(row)
    store.keys.revoke(row.id)
    revoked = store.keys.find(key)
    assert revoked is not None
    assert not usable(revoked)
    assert [k.name for k in store.keys.list(owner.id)] == ["laptop"]
    for id in (row.id, "key-none"):
        with pytest.raises(NotFound):
            store.keys.revoke(id)


def test_the_audit_chain_shows_what_was_tampered_with(store: Store, owner: Actor) -> None:
    for i in range(4):
        store.audit.add("test", f"thing {i} é", owner.id, {"i": i, "x": float("nan")})
    assert store.audit.verify() is None
    assert [row.object for row in store.audit.list(limit=2)] == ["thing 3 é", "thing 2 é"]
    off = (
        "DROP TRIGGER audit_append_only_update"
        if store.database.is_sqlite
        else "DROP TRIGGER audit_append_only ON audit"
    )
    with store.database.write() as session:
        session.execute(text(off))
        session.execute(text("UPDATE audit SET object = 'thing 9' WHERE seq = 3"))
    assert store.audit.verify() == 3


def test_a_removed_audit_row_is_noticed(store: Store) -> None:
    for i in range(3):
        store.audit.add("test", f"thing {i}")
    off = (
        "DROP TRIGGER audit_append_only_delete"
        if store.database.is_sqlite
        else "DROP TRIGGER audit_append_only ON audit"
    )
    with store.database.write() as session:
        session.execute(text(off))
        session.execute(text("DELETE FROM audit WHERE seq = 2"))
    assert store.audit.verify() == 3


def test_many_threads_make_one_chain(store: Store) -> None:
    threads = [threading.Thread(target=store.audit.add, args=("test", str(i))) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row.seq for row in store.audit.list()) == list(range(1, 13))
    assert store.audit.verify() is None


def test_stored_completions(store: Store, owner: Actor, guest: Actor) -> None:
    for i in range(3):
        metadata = {"run": str(i % 2), "odd 'key\" %": "x"}
        store.completions.add(
            f"chatcmpl-{i}", owner.id, "tiny", [{"role": "user", "content": "nul \x00"}], {"n": i}, metadata
        )
    assert [row.id for row in store.completions.list(owner.id)] == [f"chatcmpl-{i}" for i in range(3)]
    assert [row.id for row in store.completions.list(owner.id, order="desc", limit=1)] == ["chatcmpl-2"]
    assert [row.id for row in store.completions.list(owner.id, after="chatcmpl-0")] == ["chatcmpl-1", "chatcmpl-2"]
    wanted = {"run": "0", "odd 'key\" %": "x"}
    assert [row.id for row in store.completions.list(owner.id, metadata=wanted)] == ["chatcmpl-0", "chatcmpl-2"]
    assert len(store.completions.list(owner.id, model="other")) == len(store.completions.list(guest.id)) == 0
    kept = store.completions.get("chatcmpl-1", owner.id)
    assert (kept.messages[0]["content"], kept.response) == ("nul \x00", {"n": 1})

    store.completions.update("chatcmpl-1", owner.id, {"run": "7"})
    assert [row.id for row in store.completions.list(owner.id, metadata={"run": "7"})] == ["chatcmpl-1"]
    assert [row.id for row in store.completions.list(owner.id, metadata={"run": "1"})] == []
    store.completions.delete("chatcmpl-1", owner.id)
    for call in (
        lambda: store.completions.get("chatcmpl-1", owner.id),
        lambda: store.completions.get("chatcmpl-0", guest.id),
        lambda: store.completions.update("chatcmpl-0", guest.id, {}),
        lambda: store.completions.delete("chatcmpl-0", guest.id),
    ):
        with pytest.raises(NotFound):
            call()
