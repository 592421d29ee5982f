"""Watching a job from the command line: who works on it is not always the worker that the command started."""

from __future__ import annotations

from pathlib import Path

from tutee.cli.watch import in_hands
from tutee.lock import only_one
from tutee.settings import Settings
from tutee.store import Store


def test_a_job_is_in_hands_while_any_worker_runs_and_when_it_has_ended(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with Store.open(settings.url, tmp_path) as store:
        job = store.jobs.add("improve", "tiny", {})
        assert not in_hands(settings, store, job.id)
        with only_one(tmp_path / "worker.lock", "a worker that a server started"):
            assert in_hands(settings, store, job.id)
        assert not in_hands(settings, store, job.id)
        store.jobs.request_cancel(job.id)
        assert in_hands(settings, store, job.id)
