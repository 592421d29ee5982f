"""The worker process: one a home, one job at a time, low priority, and every way in which a job can end.

A job is held by a lease that a thread renews; when the worker dies, the next worker on this home takes the job over at
once (a worker elsewhere when the lease has run out) and goes on from the job's folder. Imports torch only when there is
work, and gives the model's memory back afterwards. Does not know how a method trains.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from tutee.data.taken_back import forget_taken_back, forget_words
from tutee.errors import TuteeError
from tutee.lock import only_one
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.jobs import deaths
from tutee.store.schema import Job
from tutee.worker import api_job
from tutee.worker.checking import FILE_PARAMS, Checker, check_next
from tutee.worker.report import LEASE_SECONDS, CancelledError, InterruptedJobError, Lease, PausedError, Reporter

log = logging.getLogger("tutee.worker")

POLL_SECONDS = 0.5
MOST_DEATHS = 3
"""A job that killed this many workers at the same place is failed rather than tried for ever."""


def run_worker(settings: Settings, once: bool = False) -> None:
    """Run jobs until SIGTERM or SIGINT; with `once`, until the queue is empty.

    Raises:
        Busy: another worker runs on this home.
    """
    be_polite()
    with only_one(settings.home / "worker.lock", "a tutee worker"), Store.open(settings.url, settings.home) as store:
        stopping = threading.Event()
        with stop_on_signals(stopping):
            worker = Worker(settings, store, stopping)
            worker.recover()
            if once:
                while not stopping.is_set() and (check_next(store) or worker.run_next()):
                    pass
                return
            with Checker(store, stopping):
                while not stopping.is_set():
                    if not worker.run_next():
                        stopping.wait(POLL_SECONDS)


NICE = 1
"""Of the worker. Shares of their speeds that a chat stream and a job on the same cores keep (`bench/serve.py --rows
training`): .59 and .57 at 1, .66 and .42 at 2, .67 and .35 at 4, .90 and .15 at 10."""


def be_polite() -> None:
    """Yield to chat: lower priority, and OpenMP threads that sleep while they wait instead of burning a core.

    Must come before torch is imported, which reads the variables once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    with suppress(OSError):
        os.nice(NICE)


@contextmanager
def stop_on_signals(stopping: threading.Event) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into the event; a second one ends the process the usual way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Worker:
    """One worker on one store. `stopping` ends the running job at its next step, back into the queue."""

    def __init__(self, settings: Settings, store: Store, stopping: threading.Event) -> None:
        self.settings = settings
        self.store = store
        self.stopping = stopping
        self._place = f"{socket.gethostname()}:{settings.home}:"
        self._parent = f"{self._place}{boot_id()}:{os.getppid()}:"
        self.id = f"{self._parent}{os.getpid()}"

    def recover(self) -> None:
        """Put back at once what a dead worker of this home held: we hold the home's lock, so it is dead. It was not the
        job's fault if the server or the machine went down with it."""
        job = self.store.jobs.running()
        if job is not None and job.lease_owner is not None and job.lease_owner.startswith(self._place):
            self.store.jobs.release(job.id, job.lease_owner, died=job.lease_owner.startswith(self._parent))
        forget_taken_back(self.store)

    def run_next(self) -> bool:
        """Take one job and run it to its end; False when the queue is empty."""
        job = self.store.jobs.lease(self.id, LEASE_SECONDS)
        if job is None:
            return False
        lease = Lease(self.store, job.id, self.id)
        try:
            with lease:
                self._run(job, Reporter(self.store, job, self.settings.home, lease, self.stopping))
        finally:
            free_memory()
        forget_taken_back(self.store)  # while a job runs nobody else may touch its folder
        return True

    def _run(self, job: Job, report: Reporter) -> None:
        try:
            if job.cancel_requested:
                raise CancelledError
            if deaths(job) >= MOST_DEATHS:
                raise TuteeError(
                    f"The worker died {deaths(job)} times at the same place ({where(job)}), so the job is given up. "
                    "Most often there was not enough memory: close other programs, or train with smaller batches.",
                    code="worker_died",
                )
            run_method(self.settings, self.store, job, report)
        except CancelledError:
            self.store.jobs.mark_cancelled(job.id)
            log.info("%s was cancelled", job.id)
        except (PausedError, InterruptedJobError) as reason:
            if not report.lease.lost:
                self.store.jobs.release(job.id, self.id)
            said = "paused" if isinstance(reason, PausedError) else "put back"
            log.info("%s was %s, its checkpoints are kept", job.id, said)
        except Exception as error:
            code, message, param = describe_failure(error)
            log.warning("%s failed: %s", job.id, message, exc_info=error if code == "server_error" else None)
            if not report.lease.lost:
                self.store.jobs.fail(job.id, code, message, param)


def where(job: Job) -> str:
    """The place that a job reached, for people."""
    stage, step = job.progress.get("stage"), job.progress.get("step")
    return "before the first step" if stage is None else f"{stage}, step {step or 0}"


def boot_id() -> str:
    """Changes when the machine is restarted; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def describe_failure(error: Exception) -> tuple[str, str, str | None]:
    """(code, message, param) for the person whose job failed."""
    if isinstance(error, TuteeError):
        code = f"invalid_{error.param}" if error.param in FILE_PARAMS else error.code
        return code or "server_error", error.message, error.param
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return (
            "out_of_memory",
            "There is not enough memory for this job. Close other programs.",
            None,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "disk_full",
            "The disk is full. Nothing that was there is lost: free some space and start again.",
            None,
        )
    return "server_error", f"The job failed with an unexpected error: {error!r}", None


def run_method(settings: Settings, store: Store, job: Job, report: Reporter) -> None:
    """Load the job's base model, run its method, and finish the job in the store.

    `job.config` holds, each optional: `settings` (of the recipe, or of the trainer), `hyperparameters` (OpenAI's; what
    they were before each `auto` became a number is `asked`), `grader` and `response_format` (reinforcement), and `exam`
    (`evaluate.measure.ExamConfig`).

    Raises:
        InvalidInput: param `model`, `training_file` or a setting is wrong. Diverged: the last good checkpoint is kept.
    """
    examples = api_job.read_examples(store, job)  # before the model is loaded: a bad file fails at once
    # Only now: an idle worker needs no torch.
    import torch

    from tutee import improve

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    store.jobs.event(job.id, "info", "The job started." if job.attempts <= 1 else "The job goes on where it stopped.")
    start = None
    if examples is None:
        base, model = improve.open_base(settings, store, job.model)
    else:
        base, model, start = api_job.open_start(settings, store, job.model)
    place = improve.Workplace(settings, store, base, model, job, report)
    report.stages = improve.STAGES if examples is None else api_job.stages_of(job)
    version, tokens = improve.improve(place) if examples is None else api_job.run_api_job(place, *examples, start)
    files = [] if examples is None else [api_job.write_result_file(store, job)]
    api_job.write_wandb_run(store, job, place.folder)
    store.jobs.event(job.id, "info", f"New model version {version.number}: {version.name}.")
    store.jobs.finish(
        job.id, version_id=version.id, fine_tuned_model=version.name, trained_tokens=tokens, result_files=files
    )
    forget_words(place.folder)  # stage files hold people's words, which may be erased later


def free_memory() -> None:
    """Give the memory of a finished job's model back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
