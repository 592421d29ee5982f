"""A job's two threads to the store: the lease that says "mine", and the report after every step.

Knows the job table; nothing of training but the record it reports (`train/progress.py`).
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tutee.errors import TuteeError
from tutee.store import Store
from tutee.store.schema import Job
from tutee.worker.curves import headline, in_openai_words

if TYPE_CHECKING:
    from tutee.train.progress import Progress

log = logging.getLogger("tutee.worker")

LEASE_SECONDS = 30.0
WRITE_SECONDS = 0.3
"""Progress within a stage is written at most this often; metrics are always written."""

EVENTS = 40
"""About how many of a stage's steps also become a line in the job's log."""


class CancelledError(Exception):
    """Somebody asked for the job to be cancelled."""


class PausedError(Exception):
    """Somebody asked for the job to be paused."""


class InterruptedJobError(Exception):
    """This worker must let go of the job now: it was told to stop, or another one holds the lease."""


class Lease:
    """Keeps a job's lease alive from a thread, and notices when it was lost."""

    def __init__(self, store: Store, job_id: str, worker_id: str) -> None:
        self.lost = False
        self._renew = partial(store.jobs.renew, job_id, worker_id, LEASE_SECONDS)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def beat(self) -> None:
        """Renew once. A busy database is no reason to give up: there are two more beats before the lease runs out."""
        try:
            self.lost = self.lost or not self._renew()
        except TuteeError as error:
            log.warning("the lease could not be renewed: %s", error.message)

    def _keep_beating(self) -> None:
        while not self._done.wait(LEASE_SECONDS / 3):
            self.beat()


class Reporter:
    """What training calls after every step: writes progress and metrics, and stops the job by raising.

    Raises:
        CancelledError, PausedError, InterruptedJobError.
    """

    def __init__(self, store: Store, job: Job, home: Path, lease: Lease, stopping: threading.Event) -> None:
        self.store = store
        self.job = job
        self._offsets_file = home / "jobs" / job.id / "series.json"
        self.lease = lease
        self.stopping = stopping
        self.stages: tuple[str, ...] = ()
        self._written = ("", 0.0)
        self._offsets: dict[str, int] = {}
        if self._offsets_file.exists():
            self._offsets = json.loads(self._offsets_file.read_text(encoding="utf-8"))

    def __call__(self, progress: Progress) -> None:
        if self.lease.lost or self.stopping.is_set():
            raise InterruptedJobError
        job = self.store.jobs.get(self.job.id)
        if job.cancel_requested:
            raise CancelledError
        if job.pause_requested:
            raise PausedError
        if progress.metrics:
            self._metric(progress)
        stage, when = self._written
        now = time.monotonic()
        unimportant = progress.step < progress.total and not progress.samples
        if stage == progress.stage and now - when < WRITE_SECONDS and unimportant:
            return
        self._written = (progress.stage, now)
        self.store.jobs.progress(
            self.job.id,
            progress.stage,
            progress.step,
            progress.total,
            progress.eta_s,
            stages=list(self.stages) or None,
            health=progress.health or None,
            samples=[asdict(sample) for sample in progress.samples] or None,
        )

    def _metric(self, progress: Progress) -> None:
        """Write the step's numbers. Stages that train one after the other make one curve: steps count on."""
        if "learning_rate" in progress.metrics and progress.stage not in self._offsets:
            trained = self.store.jobs.metrics(self.job.id).get("learning_rate", [])
            self._offsets[progress.stage] = trained[-1][0] if trained else 0
            write_text(self._offsets_file, json.dumps(self._offsets))
        step = progress.step + self._offsets.get(progress.stage, 0)
        self.store.jobs.metric(self.job.id, step, dict(progress.metrics))
        finite = {name: value for name, value in progress.metrics.items() if math.isfinite(value)}
        said = headline(finite)
        often = progress.step % max(1, progress.total // EVENTS) == 0 or progress.step == progress.total
        if said is not None and (often or any(name.startswith("valid_") for name in finite)):
            data = {"step": step, "total_steps": progress.total, **in_openai_words(self.job.method, finite)}
            self.store.jobs.event(self.job.id, "info", f"Step {progress.step}/{progress.total}: {said}", data)


def write_text(path: Path, text: str) -> None:
    """Write a small file that is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
