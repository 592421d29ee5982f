"""Projects, keys, uploads, batches and webhooks on both databases."""

from __future__ import annotations

import io
import json
import threading

import pytest

from tutee.errors import InvalidInput, NotFound, TooLarge
from tutee.store import Store
from tutee.store.keys import PREFIX, check_scopes, usable
from tutee.store.schema import Batch, File, WebhookDelivery
from tutee.store.webhooks import announce

DAY = 86_400.0


@pytest.fixture
def actor(store: Store) -> str:
    return store.actors.get_or_create("anna").id


# --- projects and keys ---------------------------------------------------------------------------------------------


def test_rows_are_in_the_project_of_who_made_them(store: Store) -> None:
    project = store.projects.add("Bakery").id
    actor = store.actors.get_or_create("anna", project_id=project)
    assert actor.project_id == project
    assert actor.id != store.actors.get_or_create("anna").id
    assert actor.id == store.actors.get_or_create("anna", project_id=project).id
    job = store.jobs.add("supervised", "base", {}, actor_id=actor.id)
    made = (
        job,
        store.files.add(b"x", "x", "user_data", actor.id),
        store.keys.add(actor.id, "key")[1],
        store.versions.add("v", "adapter", weights_sha256="1" * 64, folder="v", job_id=job.id),
        store.batches.add(actor.id, "/v1/completions", "file-x"),
    )
    assert {row.project_id for row in made} == {project}
    assert store.files.add(b"x", "x", "user_data", None).project_id == "proj_default"


def test_a_project_is_named_limited_and_closed(store: Store) -> None:
    row = store.projects.add("Bakery")
    store.projects.rename(row.id, "Patisserie")
    store.projects.set_limits(row.id, requests_per_minute=5, tokens_per_minute=None)
    found = store.projects.get(row.id)
    assert (found.name, found.requests_per_minute, found.tokens_per_minute) == ("Patisserie", 5, None)
    store.projects.archive(row.id)
    assert row.id not in [each.id for each in store.projects.list()]
    assert row.id in [each.id for each in store.projects.list(include_archived=True)]
    with pytest.raises(InvalidInput) as refused:
        store.keys.add(store.actors.get_or_create("anna", project_id=row.id).id, "late")
    assert (refused.value.param, refused.value.code) == ("project_id", "project_archived")
    for wrong in (0, -1, True):
        with pytest.raises(InvalidInput):
            store.projects.set_limits(row.id, requests_per_minute=wrong, tokens_per_minute=None)
    with pytest.raises(InvalidInput):
        store.projects.archive("proj_default")
    with pytest.raises(NotFound):
        store.projects.get("proj_nowhere")


def test_a_key_is_found_by_its_text_only(store: Store, actor: str) -> None:
    text, row = store.keys.add(actor, "laptop", scopes=["api.files.read", "files.read"])
    assert text.startswith(PREFIX)
    assert row.scopes == ["files.read"]
    found = store.keys.find(text)
    assert found is not None
    assert usable(found)
    assert store.keys.find(row.sha256) is None
    assert store.keys.find(text[:-1]) is None
    store.keys.revoke(row.id)
    gone = store.keys.find(text)
    assert gone is not None
    assert not usable(gone)
    with pytest.raises(NotFound):
        store.keys.revoke(row.id)
    with pytest.raises(NotFound):
        store.keys.update(row.id, scopes=["all"])
    assert check_scopes([]) == ["all"]
    with pytest.raises(InvalidInput):
        check_scopes(["files.fly"])


# --- uploads -------------------------------------------------------------------------------------------------------


def test_parts_become_a_file_once(store: Store, actor: str) -> None:
    upload = store.uploads.add(actor, "rows", "user_data", "text/plain", 6)
    parts = [store.uploads.add_part(upload.id, actor, io.BytesIO(data), 10).id for data in (b"abc", b"def")]
    done, file = store.uploads.complete(upload.id, actor, parts)
    assert (done.status, store.files.open(file.id).read()) == ("completed", b"abcdef")
    with pytest.raises(InvalidInput, match="completed"):
        store.uploads.complete(upload.id, actor, parts)
    with pytest.raises(NotFound):
        store.uploads.get(upload.id, "actor-somebody")


def test_a_part_too_large_leaves_nothing(store: Store, actor: str) -> None:
    upload = store.uploads.add(actor, "rows", "user_data", "text/plain", 6)
    with pytest.raises(TooLarge):
        store.uploads.add_part(upload.id, actor, io.BytesIO(b"x" * 11), 10)
    with pytest.raises(InvalidInput, match="announced"):
        store.uploads.add_part(upload.id, actor, io.BytesIO(b"x" * 7), 10)
    assert list((store.home / "uploads" / upload.id).iterdir()) == []


def test_parts_that_a_backup_did_not_hold_are_missed(store: Store, actor: str) -> None:
    upload = store.uploads.add(actor, "rows", "user_data", "text/plain", 3)
    part = store.uploads.add_part(upload.id, actor, io.BytesIO(b"abc"), 10).id
    (store.home / "uploads" / upload.id / part).unlink()
    with pytest.raises(InvalidInput) as refused:
        store.uploads.complete(upload.id, actor, [part])
    assert refused.value.code == "parts_gone"


# --- batches -------------------------------------------------------------------------------------------------------


def test_a_line_is_kept_once_whoever_writes_it(store: Store, actor: str) -> None:
    batch = store.batches.add(actor, "/v1/completions", "file-x")
    store.batches.begin(batch.id, 20, None)

    def write() -> None:
        for position in range(20):
            store.batches.record(batch.id, position, position % 5 > 0, {"custom_id": str(position)}, (2, 1))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.batches.done(batch.id) == set(range(20))
    store.batches.finalize(batch.id)
    store.batches.finish(batch.id, "completed")
    row = store.batches.get(batch.id)
    assert (row.status, row.completed, row.failed, row.input_tokens, row.output_tokens) == ("completed", 16, 4, 40, 20)
    good, bad = (
        [json.loads(line)["custom_id"] for line in store.files.open(str(id))]
        for id in (row.output_file_id, row.error_file_id)
    )
    assert (good, bad) == ([str(i) for i in range(20) if i % 5], ["0", "5", "10", "15"])
    assert store.batches.done(batch.id) == set()
    assert batch.id not in [each.id for each in store.batches.unfinished()]


def test_a_batch_without_answers_has_no_files(store: Store, actor: str) -> None:
    batch = store.batches.add(actor, "/v1/completions", "file-x")
    asked = store.batches.request_cancel(batch.id, actor)
    again = store.batches.request_cancel(batch.id, actor)
    assert (again.status, again.moments) == ("cancelling", asked.moments)
    store.batches.begin(batch.id, 3, None)
    assert store.batches.get(batch.id).status == "cancelling"
    store.batches.finish(batch.id, "cancelled")
    row = store.batches.get(batch.id, actor)
    assert (row.status, row.output_file_id, row.error_file_id) == ("cancelled", None, None)
    with pytest.raises(InvalidInput):
        store.batches.request_cancel(batch.id, actor)
    with pytest.raises(NotFound):
        store.batches.get(batch.id, "actor-somebody")


def test_a_file_is_in_use_until_its_batch_ends(store: Store, actor: str) -> None:
    file = store.files.add(b"x", "x", "batch", actor)
    batch = store.batches.add(actor, "/v1/completions", file.id)
    assert store.files.in_use(file.id)
    store.batches.reject(batch.id, [{"code": "empty_file", "message": "x", "line": None, "param": None}])
    assert not store.files.in_use(file.id)


# --- webhooks ------------------------------------------------------------------------------------------------------


def test_what_ended_is_told_to_whoever_asked_and_settled_once(store: Store, actor: str) -> None:
    first = store.webhooks.add(actor, "a", "https://a.example/", ["batch.failed", "batch.completed"])
    store.webhooks.add(actor, "b", "https://b.example/", ["batch.completed"])
    store.webhooks.add(store.actors.get_or_create("bert").id, "c", "https://c.example/", ["batch.failed"])
    batch = store.batches.add(actor, "/v1/completions", "file-x")
    store.batches.reject(batch.id, [])
    [due] = store.webhooks.due()
    assert (due.url, due.body["type"], due.body["data"]) == (first.url, "batch.failed", {"id": batch.id})
    assert due.body["object"] == "event"

    store.webhooks.attempted(due.id, "HTTP 500", delivered=False, next_at=due.created_at + DAY)
    assert store.webhooks.due() == []
    store.webhooks.attempted(due.id, "HTTP 200", delivered=True, next_at=None)
    with store.database.read() as session:
        row = session.get(WebhookDelivery, due.id)
    assert row is not None
    assert (row.attempts, row.status, row.last_result) == (2, "delivered", "HTTP 200")
    assert store.webhooks.sweep() == 0


def test_deleting_an_endpoint_forgets_what_it_was_to_be_told(store: Store, actor: str) -> None:
    endpoint = store.webhooks.add(actor, "a", "https://a.example/", ["batch.failed"])
    with store.database.write() as session:
        announce(session, actor, "batch.failed", "batch_x")
    [due] = store.webhooks.due()
    store.webhooks.delete(endpoint.id, actor)
    assert store.webhooks.due() == []
    store.webhooks.attempted(due.id, "too late", delivered=True, next_at=None)


def test_an_old_secret_signs_beside_the_new_one_for_a_day(
    store: Store, actor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.webhooks.add(actor, "a", "https://a.example/", ["batch.failed"]).secret
    [endpoint] = store.webhooks.list(actor)
    second = store.webhooks.rotate(endpoint.id, actor, keep_old=True).secret
    with store.database.write() as session:
        announce(session, actor, "batch.failed", "batch_x")
    assert store.webhooks.due()[0].secrets == [second, first]
    later = store.webhooks.get(endpoint.id, actor).updated_at + DAY + 1
    monkeypatch.setattr("tutee.store.webhooks.now", lambda: later)
    assert store.webhooks.due()[0].secrets == [second]


def test_a_rolled_back_end_is_no_end(store: Store, actor: str) -> None:
    store.webhooks.add(actor, "a", "https://a.example/", ["batch.failed"])
    batch = store.batches.add(actor, "/v1/completions", "file-x")

    def killed() -> None:
        with store.database.write() as session:
            session.get(Batch, batch.id).status = "failed"  # type: ignore[union-attr]
            announce(session, actor, "batch.failed", batch.id)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        killed()
    assert store.webhooks.due() == []
    assert store.batches.get(batch.id).status == "validating"


def test_a_promised_file_is_made_once(store: Store, actor: str) -> None:
    first = store.files.add(b"one", "a", "user_data", actor, id="file-promised")
    second = store.files.add(b"two", "b", "user_data", actor, id="file-promised")
    assert (second.id, second.sha256) == (first.id, first.sha256)
    with store.database.read() as session:
        assert session.query(File).count() == 1
