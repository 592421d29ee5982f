from __future__ import annotations

import math
import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from tests.store.conftest import Place
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.jobs import deaths
from tutee.store.schema import Job


def _add(store: Store, **fields: object) -> Job:
    return store.jobs.add("improve", "chat", {"b": 1, "a": 2}, **fields)  # type: ignore[arg-type]


def test_a_job_from_the_queue_to_its_end(store: Store) -> None:
    made = _add(store, suffix="mine", seed=3, metadata={"team": "red"})
    assert (made.status, made.seed, made.suffix, made.attempts) == ("queued", 3, "mine", 0)
    taken = store.jobs.lease("worker", 60)
    assert taken is not None
    assert (taken.id, taken.status, taken.attempts) == (made.id, "running", 1)
    assert store.jobs.running().id == made.id  # type: ignore[union-attr]
    assert store.jobs.renew(made.id, "worker", 60)
    done = store.jobs.finish(
        made.id, version_id="ver-1", fine_tuned_model="mine-v1", trained_tokens=9, result_files=["f"]
    )
    assert (done.status, done.fine_tuned_model, done.trained_tokens, done.lease_owner) == (
        "succeeded",
        "mine-v1",
        9,
        None,
    )
    assert store.jobs.fail(made.id, "late", "too late").status == "succeeded"
    assert not store.jobs.renew(made.id, "worker", 60)
    assert [event.message for event in store.jobs.events(made.id)] == ["The job has succeeded.", "The job is queued."]
    assert store.jobs.lease("worker", 60) is None
    assert store.jobs.running() is None


def test_equal_configs_have_equal_hashes(store: Store) -> None:
    one = store.jobs.add("dpo", "chat", {"a": 1, "b": 2})
    assert one.config_sha == store.jobs.add("dpo", "chat", {"b": 2, "a": 1}).config_sha
    assert one.config_sha != store.jobs.add("dpo", "chat", {"a": 1, "b": 3}).config_sha


def test_the_oldest_waiting_job_comes_first_and_one_runs_at_a_time(store: Store) -> None:
    first, second = _add(store), _add(store)
    assert store.jobs.lease("one", 60).id == first.id  # type: ignore[union-attr]
    assert store.jobs.lease("two", 60) is None
    assert store.jobs.lease("two", 60, alone=False).id == second.id  # type: ignore[union-attr]
    assert store.jobs.lease("three", 60, alone=False) is None


def test_an_expired_lease_gives_the_job_to_the_next_worker(store: Store) -> None:
    made = _add(store)
    store.jobs.lease("dead", 0.05)
    time.sleep(0.1)
    again = store.jobs.lease("alive", 60)
    assert again is not None
    assert (again.id, again.lease_owner, again.attempts) == (made.id, "alive", 2)
    assert again.started_at == store.jobs.get(made.id).started_at
    assert not store.jobs.renew(made.id, "dead", 60)
    store.jobs.release(made.id, "dead")
    assert store.jobs.get(made.id).status == "running"


def test_a_released_job_waits_again(store: Store) -> None:
    made = _add(store)
    store.jobs.lease("one", 60)
    store.jobs.release(made.id, "one")
    assert store.jobs.get(made.id).status == "queued"
    assert store.jobs.lease("two", 60).id == made.id  # type: ignore[union-attr]


def test_threads_never_get_the_same_job(store: Store) -> None:
    jobs = {_add(store).id for _ in range(6)}
    taken: list[str] = []

    def work(name: str) -> None:
        while (job := store.jobs.lease(name, 60, alone=False)) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=work, args=(f"worker {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(jobs)


def _lease_all(url: str, home: Path, name: str, gate: object, out: object) -> None:
    with Store.open(url, home) as store:
        gate.wait()  # type: ignore[attr-defined]
        while (job := store.jobs.lease(name, 60, alone=False)) is not None:
            out.put(job.id)  # type: ignore[attr-defined]
    out.put(None)  # type: ignore[attr-defined]


def test_processes_never_get_the_same_job(migrated: Place) -> None:
    with Store.open(migrated.url, migrated.home) as store:
        jobs = sorted(_add(store).id for _ in range(10))
    spawn = multiprocessing.get_context("spawn")
    gate, out = spawn.Barrier(2), spawn.Queue()
    workers = [
        spawn.Process(target=_lease_all, args=(migrated.url, migrated.home, f"worker {i}", gate, out)) for i in range(2)
    ]
    for worker in workers:
        worker.start()
    taken, ended = [], 0
    while ended < 2:
        said = out.get(timeout=300)
        ended += said is None
        taken += [said] if said else []
    for worker in workers:
        worker.join()
    assert sorted(taken) == jobs


def test_cancelling(store: Store) -> None:
    waiting, running = _add(store), _add(store)
    assert store.jobs.request_cancel(waiting.id).status == "cancelled"
    assert store.jobs.lease("worker", 60).id == running.id  # type: ignore[union-attr]
    assert not store.jobs.cancelled(running.id)
    assert store.jobs.request_cancel(running.id).status == "running"
    assert store.jobs.cancelled(running.id)
    assert store.jobs.mark_cancelled(running.id).status == "cancelled"
    for id in (waiting.id, running.id):
        with pytest.raises(InvalidInput) as refused:
            store.jobs.request_cancel(id)
        assert refused.value.code == "job_ended"
    with pytest.raises(NotFound):
        store.jobs.request_cancel("ftjob-none")


def test_a_job_whose_worker_died_is_cancelled_at_once(store: Store) -> None:
    made = _add(store)
    store.jobs.lease("dead", 0.01)
    time.sleep(0.05)
    assert store.jobs.request_cancel(made.id).status == "cancelled"
    assert store.jobs.lease("alive", 60) is None


def test_a_failed_job_says_why(store: Store) -> None:
    made = _add(store)
    store.jobs.lease("worker", 60)
    failed = store.jobs.fail(made.id, "invalid_training_file", "line 7: no messages", "training_file")
    assert failed.status == "failed"
    assert failed.error == {
        "code": "invalid_training_file",
        "message": "line 7: no messages",
        "param": "training_file",
    }
    assert store.jobs.events(made.id).data[0].level == "error"
    assert store.audit.list()[0].action == "job.failed"


def test_progress_metrics_and_checkpoints(store: Store) -> None:
    made = _add(store)
    store.jobs.progress(made.id, "train", 1, 10, 9.5, stages=["collect", "train"], health="ok")
    store.jobs.progress(made.id, "train", 2, 10)
    assert store.jobs.get(made.id).progress == {
        "stage": "train", "step": 2, "total_steps": 10, "eta_s": None, "stages": ["collect", "train"], "health": "ok"
    }  # fmt: skip
    store.jobs.metric(made.id, 1, {"loss": 2.0, "kl": 0.1})
    store.jobs.metric(made.id, 2, {"loss": math.nan})
    store.jobs.metric(made.id, 1, {"loss": 1.5})
    assert store.jobs.metrics(made.id) == {"loss": [(1, 1.5), (2, None)], "kl": [(1, 0.1)]}
    for step in (5, 10, 5):
        store.jobs.checkpoint(made.id, step, f"jobs/{made.id}/{step}", {"loss": 1.0}, name=f"m:step-{step}")
    assert [row.step for row in store.jobs.checkpoints(made.id)] == [10, 5]
    store.jobs.set_hyperparameters(made.id, {"n_epochs": 3})
    changed = store.jobs.get(made.id)
    assert changed.config == {"b": 1, "a": 2, "hyperparameters": {"n_epochs": 3}}
    assert changed.config_sha == made.config_sha


def test_events_and_jobs_come_in_pages(store: Store) -> None:
    made = [_add(store, metadata={"n": str(i % 2)}).id for i in range(4)]
    for i in range(5):
        store.jobs.event(made[0], "info", f"step {i}", {"step": i} if i else None)
    first = store.jobs.events(made[0], limit=3)
    assert [event.message for event in first] == ["step 4", "step 3", "step 2"]
    assert first.data[0].type == "metrics"
    rest = store.jobs.events(made[0], limit=10, after=first.last_id)
    assert [event.message for event in rest] == ["step 1", "step 0", "The job is queued."]
    assert (first.has_more, rest.has_more) == (True, False)
    assert [job.id for job in store.jobs.list(limit=2)] == [made[3], made[2]]
    assert [job.id for job in store.jobs.list(after=made[2])] == [made[1], made[0]]
    assert [job.id for job in store.jobs.list(metadata={"n": "1"})] == [made[3], made[1]]
    assert [job.id for job in store.jobs.list(metadata={})] == []
    assert [job.id for job in store.jobs.list(methods=["some other"])] == []
    with pytest.raises(InvalidInput):
        store.jobs.event(made[0], "loud", "x")


def test_deaths_count_only_while_a_job_gets_no_further(store: Store) -> None:
    job = _add(store)

    def die_at(stage: str, step: int) -> int:
        assert store.jobs.lease("worker", 60)
        store.jobs.progress(job.id, stage, step, 100, stages=["collect", "train"])
        store.jobs.release(job.id, "worker", died=True)
        return deaths(store.jobs.get(job.id))

    assert [die_at("collect", 5), die_at("collect", 5), die_at("train", 1), die_at("train", 7)] == [1, 2, 1, 1]
    assert [die_at("collect", 9), die_at("train", 7)] == [2, 3], "starting over is not getting further"
    assert store.jobs.lease("worker", 60)
    store.jobs.release(job.id, "worker")
    assert deaths(store.jobs.get(job.id)) == 0, "a worker that is stopped did not die"


def test_a_lease_that_ran_out_is_a_death(store: Store) -> None:
    job = _add(store)
    for expected in (0, 1, 2):
        taken = store.jobs.lease(f"worker {expected}", -1)
        assert taken is not None
        assert deaths(taken) == expected
    assert deaths(store.jobs.get(job.id)) == 2


def test_pausing_and_resuming(store: Store) -> None:
    waiting, running = _add(store), _add(store)
    assert store.jobs.request_pause(waiting.id).status == "paused"
    assert store.jobs.lease("worker", 60).id == running.id  # type: ignore[union-attr]
    assert store.jobs.request_pause(running.id).status == "running", "its worker stops at the next step"
    assert store.jobs.pausing(running.id)
    store.jobs.release(running.id, "worker")
    assert store.jobs.get(running.id).status == "paused"
    assert store.jobs.lease("worker", 60) is None
    assert store.jobs.resume(running.id).status == "queued"
    assert store.jobs.lease("worker", 60).id == running.id  # type: ignore[union-attr]
    assert store.jobs.request_pause(running.id).pause_requested
    assert not store.jobs.resume(running.id).pause_requested, "a pause that has not happened yet is taken back"
    assert store.jobs.request_cancel(waiting.id).status == "cancelled"


def test_a_job_whose_worker_died_is_paused_instead_of_handed_out(store: Store) -> None:
    asked, late = _add(store), _add(store)
    store.jobs.lease("dead", 60)
    store.jobs.request_pause(asked.id)
    store.jobs.renew(asked.id, "dead", -1)
    assert store.jobs.lease("alive", 60).id == late.id  # type: ignore[union-attr]
    assert store.jobs.get(asked.id).status == "paused"
    store.jobs.renew(late.id, "alive", -1)
    assert store.jobs.request_pause(late.id).status == "paused"


def test_what_cannot_be_paused_or_resumed_says_why(store: Store) -> None:
    job = _add(store)
    for act, code in ((store.jobs.resume, "job_not_paused"), (store.jobs.request_pause, None),
                      (store.jobs.request_pause, "job_paused"), (store.jobs.request_cancel, None),
                      (store.jobs.request_pause, "job_ended"), (store.jobs.resume, "job_ended")):  # fmt: skip
        if code is None:
            act(job.id)
            continue
        with pytest.raises(InvalidInput) as refused:
            act(job.id)
        assert refused.value.code == code


def test_files_are_checked_before_a_job_waits(store: Store) -> None:
    job = _add(store, status="validating_files")
    paused = _add(store, status="validating_files")
    assert store.jobs.lease("worker", 60) is None
    assert store.jobs.unvalidated().id == job.id  # type: ignore[union-attr]
    assert store.jobs.request_pause(paused.id).status == "paused"
    assert store.jobs.validated(paused.id, {"a": 1}).config != {"a": 1}
    assert store.jobs.resume(paused.id).status == "validating_files"
    assert store.jobs.validated(job.id, {"n_epochs": 3}).status == "queued"
    taken = store.jobs.lease("worker", 60)
    assert taken is not None
    assert (taken.id, taken.config) == (job.id, {"n_epochs": 3})


def test_every_change_of_status_is_an_event(store: Store) -> None:
    job = _add(store, status="validating_files")
    store.jobs.validated(job.id, {})
    store.jobs.lease("worker", 60)
    store.jobs.event(job.id, "info", "not a change", {"step": 1})
    store.jobs.fail(job.id, "server_error", "broken")
    told = [event.data["status"] for event in store.jobs.events(job.id) if event.type == "status" and event.data]
    assert sorted(told) == ["failed", "queued", "validating_files"]
