from __future__ import annotations

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.store.conftest import SHA, Scene, everything
from tutee.errors import InvalidInput, NotFound
from tutee.store import SnapshotItem, Store
from tutee.store.schema import Actor


def test_the_newest_event_counts_and_the_older_ones_stay(store: Store, scene: Scene) -> None:
    answer, other = scene.turn(), scene.turn()
    events = [scene.thumb(answer, value) for value in (1, -1, 0, 1)]
    edit = store.feedback.add("edit", scene.owner.id, message_id=answer.id, payload={"content": "Good day."})
    elsewhere = scene.thumb(other, -1)

    assert [f.id for f in store.feedback.live()] == [events[-1].id, edit.id, elsewhere.id]
    assert [f.supersedes for f in events] == [None, *(f.id for f in events[:-1])]
    assert [f.id for f in store.feedback.list(kind="thumb")] == [elsewhere.id, *(f.id for f in reversed(events))]
    seen = scene.again(answer)
    assert seen.thumb == {"value": 1, "reasons": [], "comment": None, "feedback_id": events[-1].id}
    assert seen.edit == {"content": "Good day.", "feedback_id": edit.id}


def test_a_withdrawn_thumb_is_no_thumb(store: Store, scene: Scene) -> None:
    answer = scene.turn()
    scene.thumb(answer, 1)
    scene.thumb(answer, 0)
    assert scene.again(answer).thumb is None
    assert [f.payload["value"] for f in store.feedback.live()] == [0]


def test_everybody_has_their_own_vote(store: Store, scene: Scene, guest: Actor) -> None:
    mine, theirs = scene.turn(), scene.turn(guest)
    scene.thumb(mine, 1)
    scene.thumb(theirs, -1, guest)
    assert [f.payload["value"] for f in store.feedback.live(actor_id=guest.id)] == [-1]
    assert store.messages.get(mine.id, scene.owner.id).thumb is not None
    assert store.messages.get(mine.id, None).thumb is None
    with pytest.raises(NotFound):
        store.feedback.get(store.feedback.live(actor_id=guest.id)[0].id, scene.owner.id)


def test_reasons_comment_and_context_are_kept(store: Store, scene: Scene) -> None:
    presentation, first, _ = scene.compared()
    given = store.feedback.add(
        "thumb",
        scene.owner.id,
        message_id=first.id,
        presentation_id=presentation,
        payload={"value": -1},
        reasons=["wrong", "too long"],
        comment="nul \x00 in it",
        strength=2,
        client="page 0.1",
    )
    kept = store.feedback.get(given.id, scene.owner.id)
    assert (kept.reasons, kept.comment, kept.strength) == (["wrong", "too long"], "nul \ufffd in it", 2)
    assert (kept.conversation_id, kept.message_id, kept.presentation_id) == (
        first.conversation_id,
        first.id,
        presentation,
    )


def test_a_comparison_is_derived_from_what_was_shown(store: Store, scene: Scene) -> None:
    presentation, first, _ = scene.compared()
    vote = store.feedback.add(
        "compare", scene.owner.id, presentation_id=presentation, payload={"winner": "tie", "dwell_ms": 3000}
    )
    assert (vote.target_id, vote.message_id, vote.conversation_id) == (presentation, None, first.conversation_id)
    changed = store.feedback.add("compare", scene.owner.id, presentation_id=presentation, payload={"winner": "a"})
    assert [f.id for f in store.feedback.live(kind="compare")] == [changed.id]


def test_a_ranking_must_hold_each_answer_once(store: Store, scene: Scene) -> None:
    presentation, first, second = scene.compared()
    for tiers in ([[first.generation_id]], "a>b", [[first.generation_id], [first.generation_id]]):
        with pytest.raises(InvalidInput):
            store.feedback.add("rank", scene.owner.id, presentation_id=presentation, payload={"tiers": tiers})
    tiers = [[second.generation_id], [first.generation_id]]
    assert store.feedback.add("rank", scene.owner.id, presentation_id=presentation, payload={"tiers": tiers})


@pytest.mark.parametrize(
    ("kind", "payload", "param"),
    [
        ("applause", {}, "kind"),
        ("thumb", {"value": 2}, "payload.value"),
        ("thumb", {"value": True}, "payload.value"),
        ("thumb", {}, "payload.value"),
        ("edit", {"content": 5}, "payload.content"),
        ("flag", {}, "payload.category"),
    ],
)
def test_bad_payloads_name_their_field(
    store: Store, scene: Scene, kind: str, payload: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        store.feedback.add(kind, scene.owner.id, message_id=scene.turn().id, payload=payload)
    assert refused.value.param == param


def test_feedback_needs_a_target_that_fits(store: Store, scene: Scene) -> None:
    answer = scene.turn()
    question = str(answer.parent_id)
    single = store.presentations.create(scene.owner.id, [str(answer.generation_id)])
    with pytest.raises(InvalidInput):
        store.feedback.add("thumb", scene.owner.id, payload={"value": 1})
    with pytest.raises(InvalidInput):
        store.feedback.add("thumb", scene.owner.id, message_id=question, payload={"value": 1})
    with pytest.raises(InvalidInput):
        store.feedback.add("compare", scene.owner.id, presentation_id=single.id, payload={"winner": "a"})
    with pytest.raises(InvalidInput):
        store.feedback.add("compare", scene.owner.id, presentation_id=single.id, payload={"winner": "c"})
    with pytest.raises(NotFound):
        store.feedback.add("compare", scene.owner.id, presentation_id="pres-none", payload={"winner": "a"})
    with pytest.raises(NotFound):
        store.feedback.add(
            "thumb", scene.owner.id, message_id=scene.turn().id, presentation_id=single.id, payload={"value": 1}
        )
    assert store.feedback.live() == []


@pytest.mark.parametrize("table", ["feedback", "consent", "audit"])
def test_the_database_itself_refuses_to_change_events(store: Store, scene: Scene, table: str) -> None:
    scene.thumb(scene.turn())
    store.consents.set(scene.owner.id, "train", False)
    before = everything(store)[table]
    with pytest.raises(DBAPIError, match="append-only"), store.database.write() as session:
        session.execute(text(f"UPDATE {table} SET created_at = 0"))
    assert everything(store)[table] == before != []


def test_many_threads_voting_on_one_answer_leave_one_live_vote(store: Store, scene: Scene) -> None:
    answer = scene.turn()
    threads = [threading.Thread(target=scene.thumb, args=(answer, 1 - 2 * (i % 2))) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.feedback.list(limit=100)) == 16
    assert len(store.feedback.live()) == 1


def _trained_on(store: Store, scene: Scene, feedback_id: str, name: str, parent: str | None = None) -> str:
    items = [SnapshotItem("0" * 64, "train", "unpaired", {"text": "the secret"}, feedback_id, scene.owner.id)]
    snapshot = store.snapshots.add(name.ljust(64, "0"), "mixed", {"rows": 1}, items)
    fields = {"weights_sha256": SHA, "folder": f"versions/{name}", "snapshot_sha": snapshot.sha}
    return store.versions.add(name, "adapter", parent_id=parent or scene.base.id, **fields).id


def test_erasing_takes_the_whole_chain_and_names_the_versions_that_learned_from_it(store: Store, scene: Scene) -> None:
    answer = scene.turn()
    old, new = scene.thumb(answer, 1), scene.thumb(answer, -1)
    other = store.feedback.add("flag", scene.owner.id, message_id=answer.id, payload={"category": "rude"})
    taught = _trained_on(store, scene, old.id, "a")
    child = _trained_on(store, scene, other.id, "b", parent=taught)
    _trained_on(store, scene, other.id, "c")

    tombstone = store.feedback.erase(new.id, scene.owner.id)

    assert sorted(tombstone.feedback_ids) == sorted([old.id, new.id])
    assert tombstone.tainted_versions == [taught, child]
    assert [f.id for f in store.feedback.live()] == [other.id]
    assert scene.again(answer).thumb is None
    with pytest.raises(NotFound):
        store.feedback.get(old.id)
    assert store.versions.feedback_ids(taught) == [old.id], "what a version learned stays known by its id"
    assert [f.id for f in store.feedback.get_many([other.id, old.id, other.id])] == [other.id, other.id]
    assert store.snapshots.rows("a".ljust(64, "0")) == []
    [(_, row)] = store.snapshots.containing(old.id)
    assert (row.payload, row.row_sha) == (None, "0" * 64)
    assert [e.id for e in store.feedback.erasures()] == [tombstone.id]
    assert [version.id for version in store.versions.learned_from(old.id)] == [taught, child]


def test_a_deleted_conversation_taints_the_versions_that_were_asked_its_prompts(store: Store, scene: Scene) -> None:
    gone, kept = scene.turn(), scene.turn()
    items = [
        SnapshotItem(
            str(i) * 64, "train", "prompt", {"prompt": "the secret", "conversation_id": answer.conversation_id}
        )
        for i, answer in enumerate((gone, kept))
    ]
    store.snapshots.add(SHA, "mixed", {}, items)
    version = scene.candidate(snapshot_sha=SHA)
    tombstone = store.conversations.delete(gone.conversation_id, scene.owner.id)
    assert tombstone.tainted_versions == [version.id]
    assert [row.row_sha for row in store.snapshots.rows(SHA)] == ["1" * 64]


def test_only_the_owner_of_feedback_can_erase_it(store: Store, scene: Scene, guest: Actor) -> None:
    event = scene.thumb(scene.turn())
    with pytest.raises(NotFound):
        store.feedback.erase(event.id, guest.id)
    assert store.feedback.get(event.id)


def test_erasing_a_person_leaves_the_others(store: Store, scene: Scene, guest: Actor) -> None:
    scene.thumb(scene.turn(guest, "the guest's secret"), 1, guest)
    store.completions.add("chatcmpl-1", guest.id, "tiny", [{"role": "user", "content": "secret"}], {"id": "chatcmpl-1"})
    mine = scene.thumb(scene.turn())
    assert len(store.persons.erase(guest.id).tombstone.feedback_ids) == 1
    left = everything(store)
    assert "secret" not in repr(left)
    assert [f.id for f in store.feedback.live()] == [mine.id]
    assert len(store.conversations.list(guest.id)) == 0
