"""An erased person leaves no word and no name in any table or file; every table that names people has its rule."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tests.store.conftest import SHA, Scene, everything
from tutee.errors import NotFound
from tutee.store import Store
from tutee.store.evals import GradedRow
from tutee.store.keys import usable
from tutee.store.persons import RULES
from tutee.store.schema import Actor, Base, File, Review

SECRET = "swordfish"


def test_every_column_that_names_a_person_has_a_rule() -> None:
    named = set()
    for mapper in Base.registry.mappers:
        for column in mapper.local_table.c:
            refers = any(key.column.table.name == "actor" for key in column.foreign_keys)
            if refers or column.name.endswith("actor_id"):
                named.add((mapper.class_, column.name))
    assert named == set(RULES), "say in `persons.RULES` what becomes of an erased person's rows"


def use_everything(store: Store, scene: Scene, actor: Actor) -> tuple[str, str]:
    """Say the secret wherever the API takes words; ids of the job and of the version that it made."""
    said = {"role": "user", "content": SECRET}
    thumb = scene.thumb(scene.turn(actor, SECRET), 1, actor)
    scene.thumb(scene.turn(actor, "another one"), -1, actor)
    store.consents.set(actor.id, "train", True)
    store.completions.add("chatcmpl-1", actor.id, "tiny", [said], {"id": SECRET}, metadata={"about": SECRET})
    body = {"id": "resp_1", "model": "m", "status": "completed", "created_at": 5, "output": [said | {"id": "msg_2"}]}
    store.responses.add(actor.id, body, [said | {"id": "msg_1"}])
    store.openai_conversations.add(actor.id, {"about": SECRET}, [said | {"id": "msg_3"}])
    file = store.files.add(f"{SECRET} in a file\n".encode(), f"{SECRET}.jsonl", "fine-tune", actor.id)
    upload = store.uploads.add(actor.id, f"{SECRET}.jsonl", "fine-tune", "text/plain", 9)
    store.uploads.add_part(upload.id, actor.id, io.BytesIO(SECRET.encode()), 9)
    batch = store.batches.add(actor.id, "/v1/completions", file.id, {"about": SECRET})
    store.batches.record(batch.id, 0, True, {"answer": SECRET}, (1, 1))
    store.webhooks.add(actor.id, SECRET, f"https://{SECRET}.example", ["batch.completed"])
    store.keys.add(actor.id, SECRET)
    evaluation = store.evals.add(actor.id, SECRET, {"type": "custom"}, [{"name": SECRET}], {"about": SECRET})
    run = store.eval_runs.add(evaluation.id, actor.id, SECRET, {"content": SECRET}, SHA)
    store.eval_runs.save(run.id, [GradedRow(0, "pass", {"q": SECRET}, {"a": SECRET}, [])], {})
    store.gate_evals.set(evaluation.id, actor.id, {"content": SECRET}, SHA, "warn", 0.1)
    config = {"grader": {"name": SECRET}, "settings": {"rank": 2}}
    job = store.jobs.add(
        "reinforcement", "tiny", config, actor_id=actor.id, training_file=file.id, suffix=SECRET, metadata={"a": SECRET}
    )
    store.jobs.event(job.id, "info", f"Line 1 says {SECRET}.")
    store.jobs.progress(job.id, "train", 1, 2, samples=[{"answer": SECRET}])
    version = scene.candidate("tiny-ft", job_id=job.id)
    store.promotions.promote(version.id, actor.id, why="better", override=True)
    with store.database.write() as session:
        session.add(
            Review(id="review-1", feedback_id=thumb.id, reviewer_id=actor.id, verdict="ok", labels={"a": SECRET})
        )
    return job.id, version.id


def test_an_erased_person_leaves_no_word(store: Store, scene: Scene) -> None:
    ada = store.actors.get_or_create("ada-lovelace")
    key, row = store.keys.add(ada.id, "laptop")
    job, version = use_everything(store, scene, ada)
    assert SECRET in repr(everything(store))
    done = store.persons.erase(ada.id)
    left = repr(everything(store))
    assert SECRET not in left
    assert "ada-lovelace" not in left
    assert not [path for path in store.home.rglob("*") if path.is_file() and path.parent.name in ("files", "uploads")]
    assert not list((store.home / "uploads").iterdir())
    assert (store.jobs.get(job).status, store.jobs.get(job).config) == ("cancelled", {"settings": {"rank": 2}})
    assert done.tombstone.tainted_versions == [version]
    assert {"conversation": 2, "feedback": 2, "file": 1, "batch": 1, "eval": 1, "api_key": 2}.items() <= dict(
        done.removed
    ).items()
    assert not usable(store.keys.get(row.id, ada.project_id))
    found = store.keys.find(key)
    assert found is None or not usable(found)
    assert store.audit.verify() is None, "the audit chain holds"
    assert store.consents.granted(ada.id, "train"), "what was agreed to stays known"
    assert not store.persons.erase(ada.id).removed, "there is nothing more to erase"


def test_others_keep_what_they_have(store: Store, scene: Scene) -> None:
    kept, gone = store.actors.get_or_create("grace"), store.actors.get_or_create("ada")
    use_everything(store, scene, kept)
    shared = store.files.add(f"{SECRET} in a file\n".encode(), "same.jsonl", "fine-tune", gone.id)
    before = everything(store)
    done = store.persons.erase(gone.id)
    assert done.removed == {"file": 1}
    changed = {name for name, rows in everything(store).items() if rows != before[name]}
    assert changed == {"actor", "audit", "erasure", "file"}
    with store.files.open(next(iter(store.files.list(kept.id))).id) as stream:
        assert SECRET in stream.read().decode(), "equal contents share one place"
    with pytest.raises(NotFound):
        store.files.get(shared.id)


def test_a_batch_that_ends_while_its_owner_is_erased_leaves_no_file(
    store: Store, guest: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = store.batches.add(guest.id, "/v1/completions", "file-x")
    store.batches.record(batch.id, 0, True, {"answer": SECRET}, (1, 1))
    add = store.files.add

    def erase_then_add(*arguments: Any, **options: Any) -> File:
        store.persons.erase(guest.id)
        return add(*arguments, **options)

    monkeypatch.setattr(store.files, "add", erase_then_add)
    with pytest.raises(NotFound):
        store.batches.finish(batch.id, "completed")
    assert SECRET not in repr(everything(store))
    assert not list(store.files.list(guest.id))
    with pytest.raises(NotFound):
        store.batches.record(batch.id, 1, True, {"answer": SECRET}, (1, 1))


def test_the_owner_keeps_the_place(store: Store, scene: Scene) -> None:
    key, _ = store.keys.add(scene.owner.id, "mine")
    scene.turn(text=SECRET)
    store.persons.erase(scene.owner.id)
    assert store.actors.get(scene.owner.id).handle == "owner"
    found = store.keys.find(key)
    assert found is not None
    assert usable(found)
    assert SECRET not in repr(everything(store))


def test_nobody_cannot_be_erased(store: Store) -> None:
    with pytest.raises(NotFound):
        store.persons.erase("actor-nobody")
