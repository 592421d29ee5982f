"""A job that kills its worker again and again is given up; a server or machine that restarts is not its fault."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from tests.tiny_home import add_improve, settings_for
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
