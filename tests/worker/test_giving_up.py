"""A job that kills its worker again and again is given up; a server or machine that restarts is not its fault."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from tests.tiny_home import add_improve, settings_for
from tutee.data.from_feedback import collect
from tutee.data.snapshot import freeze
from tutee.data.taken_back import forget_taken_back
from tutee.store import Store
from tutee.store.jobs import deaths
from tutee.worker import run
from tutee.worker.run import MOST_DEATHS, Worker


@pytest.fixture
def home(planted_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planted_home, tmp_path / "home"))


def next_worker(home: Path, store: Store) -> Worker:
    """A worker that starts on this home, as after the death of the last one."""
    worker = Worker(settings_for(home), store, threading.Event())
    worker.recover()
    return worker


def test_the_third_death_at_one_place_is_the_last(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(settings_for(home).url, home) as store:
        job_id = add_improve(store)
        for death in range(1, MOST_DEATHS + 1):
            worker = next_worker(home, store)
            assert store.jobs.lease(worker.id, 60) is not None  # and here it is killed
            assert deaths(store.jobs.get(job_id)) == death - 1
        worker = next_worker(home, store)

        def never(*args: object) -> None:
            raise AssertionError("the job was tried once more")

        monkeypatch.setattr(run, "run_method", never)
        assert worker.run_next()
        job = store.jobs.get(job_id)
        assert job.status == "failed"
        assert job.error is not None
        assert job.error["code"] == "worker_died"
        assert f"{MOST_DEATHS} times" in job.error["message"]


@pytest.mark.parametrize("name", ["boot_id", "os.getppid"])
def test_a_restart_of_machine_or_server_is_no_death(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with Store.open(settings_for(home).url, home) as store:
        job_id = add_improve(store)
        for restart in range(5):
            monkeypatch.setattr(f"tutee.worker.run.{name}", lambda restart=restart: restart)
            worker = next_worker(home, store)
            assert deaths(store.jobs.get(job_id)) == 0
            assert store.jobs.lease(worker.id, 60) is not None
        next_worker(home, store)
        assert deaths(store.jobs.get(job_id)) == 1, "the last one died without a restart"


def test_the_next_worker_deletes_what_was_taken_back_while_the_last_one_died(home: Path) -> None:
    with Store.open(settings_for(home).url, home) as store:
        job_id = add_improve(store)
        assert store.jobs.lease(next_worker(home, store).id, 60) is not None  # and here it is killed
        snapshot = freeze(store, collect(store))
        store.jobs.set_snapshot(job_id, snapshot.sha)
        stage = home / "jobs" / job_id / "candidates.jsonl"
        stage.parent.mkdir(parents=True)
        stage.write_text("{}\n")
        store.consents.set(snapshot.rows[0].origin.actor_id, "train", False)
        assert forget_taken_back(store) == [], "perhaps somebody still works on it"
        next_worker(home, store)
        assert not stage.exists()
        assert store.jobs.get(job_id).status == "queued"
