"""The worker: takes queued jobs out of the store, one after the other, and trains, as politely as it can.

A separate process from the server: they meet in the job table only. A job is held by a lease that a thread renews; when
the worker dies the lease runs out (at once, if another worker starts on the same home) and the next worker goes on from
the job's folder. Knows which method runs which code and how a job ends; the steps themselves are in `improve.py` and
`train/`. Imports torch only when there is work, and gives the model's memory back afterwards.
"""

from __future__ import annotations

import csv
import ctypes
import fcntl
import gc
import io
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from tutee.data.openai_format import read_preferences, read_supervised
from tutee.errors import Busy, InvalidInput, NotFound, TuteeError
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.schema import Job, ModelVersion

if TYPE_CHECKING:
    from tutee.improve import Workplace
    from tutee.train.finetune import Method
    from tutee.train.progress import Progress

log = logging.getLogger("tutee.worker")

LEASE_SECONDS = 30.0
POLL_SECONDS = 0.5
WRITE_SECONDS = 0.3
"""Progress within a stage is written at most this often; metrics are always written."""
MOST_ATTEMPTS = 100
"""A job that killed this many workers is failed rather than tried for ever."""


FINETUNE_STAGES = ("train", "evaluate", "judge")
FILE_PARAMS = ("training_file", "validation_file")
RESULT_COLUMNS = ("train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")

Examples = Sequence[Any]
"""`Supervised` or `Preference` lines, as the job's method says."""


class CancelledError(Exception):
    """Somebody asked for the job to be cancelled."""


class InterruptedJobError(Exception):
    """This worker must let go of the job now: it was told to stop, or another one holds the lease."""


def run_worker(settings: Settings, once: bool = False) -> None:
    """Run jobs until SIGTERM or SIGINT; with `once`, until the queue is empty.

    Raises:
        Busy: another worker runs on this home.
    """
    be_polite()
    settings.home.mkdir(parents=True, exist_ok=True)
    with only_worker(settings), Store.open(settings.url, settings.home) as store:
        stopping = threading.Event()
        with stop_on_signals(stopping):
            worker = Worker(settings, store, stopping)
            worker.recover()
            while not stopping.is_set():
                if not worker.run_next():
                    if once:
                        return
                    stopping.wait(POLL_SECONDS)


def be_polite() -> None:
    """Yield to chat: lower priority, and OpenMP threads that sleep while they wait instead of burning a core.

    Must come before torch is imported, which reads the variables once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    with suppress(OSError):
        os.nice(10)


@contextmanager
def only_worker(settings: Settings) -> Iterator[None]:
    """Hold the home's worker lock; it vanishes with the process however that ends.

    Raises:
        Busy: another worker holds it.
    """
    path = settings.home / "worker.lock"
    file: IO[str]
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"Another worker already runs on {settings.home}.") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


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
        self.id = f"{self._place}{os.getpid()}"

    def recover(self) -> None:
        """Put back at once what a dead worker of this home held: we hold the home's lock, so it is dead."""
        job = self.store.jobs.running()
        if job is not None and job.lease_owner is not None and job.lease_owner.startswith(self._place):
            self.store.jobs.release(job.id, job.lease_owner)

    def run_next(self) -> bool:
        """Take one job and run it to its end; False when the queue is empty."""
        job = self.store.jobs.lease(self.id, LEASE_SECONDS)
        if job is None:
            return False
        lease = Lease(self.store, job.id, self.id)
        try:
            with lease:
                self._run(job, Reporter(self.store, job, lease, self.stopping))
        finally:
            free_memory()
        return True

    def _run(self, job: Job, report: Reporter) -> None:
        try:
            if self.store.jobs.cancelled(job.id):
                raise CancelledError
            if job.attempts > MOST_ATTEMPTS:
                raise TuteeError(f"The worker died {job.attempts - 1} times on this job.", code="worker_died")
            run_method(self.settings, self.store, job, report)
        except CancelledError:
            self.store.jobs.mark_cancelled(job.id)
            log.info("%s was cancelled", job.id)
        except InterruptedJobError:
            if not report.lease.lost:
                self.store.jobs.release(job.id, self.id)
            log.info("%s was put back, its checkpoints are kept", job.id)
        except TuteeError as error:
            code = f"invalid_{error.param}" if error.param in FILE_PARAMS else error.code or "server_error"
            self.store.jobs.fail(job.id, code, error.message, error.param)
            log.warning("%s failed: %s", job.id, error.message)
        except MemoryError:
            self.store.jobs.fail(job.id, "out_of_memory", "There was not enough memory for this job.")
        except Exception as error:
            log.exception("%s failed", job.id)
            self.store.jobs.fail(job.id, "server_error", f"The job failed with an unexpected error: {error!r}")


def run_method(settings: Settings, store: Store, job: Job, report: Reporter) -> None:
    """Load the job's base model, run its method, and finish the job in the store.

    `job.config` holds `settings` (of the recipe, or of the trainer), `hyperparameters` (OpenAI's, API jobs only) and
    `exam` (`evaluate.measure.ExamConfig`), each optional.

    Raises:
        InvalidInput: param `model`, `training_file` or a setting is wrong. Diverged: the last good checkpoint is kept.
    """
    examples = read_examples(store, job)  # before the model is loaded: a bad file fails at once
    # Only now: an idle worker needs no torch.
    import torch

    from tutee import improve

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    store.jobs.event(job.id, "info", "The job started." if job.attempts <= 1 else "The job goes on where it stopped.")
    base, model = improve.open_base(settings, store, job.model)
    place = improve.Workplace(settings, store, base, model, job, report)
    no_files: list[str] = []
    if examples is None:
        report.stages = improve.STAGES
        done = improve.improve(place)
        version, tokens, files = done.version, done.trained.trained_tokens, no_files
    else:
        report.stages = FINETUNE_STAGES
        version, tokens, files = finetune(place, *examples)
    store.jobs.event(job.id, "info", f"New model version {version.number}: {version.name}.")
    store.jobs.finish(
        job.id, version_id=version.id, fine_tuned_model=version.name, trained_tokens=tokens, result_files=files
    )


def read_examples(store: Store, job: Job) -> tuple[Examples, Examples] | None:
    """The training and validation examples of an API job; None for `improve`, which reads feedback instead.

    Raises:
        InvalidInput: param `training_file` or `validation_file`, naming the line.
    """
    if job.method == "improve":
        return None
    if job.method not in ("supervised", "dpo"):
        raise InvalidInput(
            f"This worker does not know the method '{job.method}'.", param="method", code="unknown_method"
        )
    read = read_supervised if job.method == "supervised" else read_preferences
    found: list[Examples] = []
    for param, file_id in zip(FILE_PARAMS, (job.training_file, job.validation_file), strict=True):
        if file_id is None:
            found.append([])
            continue
        try:
            with store.files.open(file_id) as stream:
                found.append(list(read(stream, param)))
        except NotFound as error:
            raise InvalidInput(error.message, param=param) from error
    return found[0], found[1]


def finetune(place: Workplace, examples: Examples, validation: Examples) -> tuple[ModelVersion, int, list[str]]:
    """An API job: examples → adapter → versions, one a checkpoint → evaluations → result file."""
    from tutee import improve
    from tutee.model.pretrained import load_pretrained
    from tutee.train import finetune as training

    job, store = place.job, place.store
    method: Method = "supervised" if job.method == "supervised" else "dpo"
    asked = training.resolve_hyperparameters(method, job.config.get("hyperparameters", {}), len(examples))
    resolved = {key: value for key, value in asdict(asked).items() if value is not None}
    store.jobs.set_config(job.id, {**job.config, "hyperparameters": resolved})

    def report(progress: Progress) -> None:
        place.report(progress)
        if progress.step < progress.total:
            register_checkpoints(place, progress.step)

    trained = training.finetune(
        place.model,
        method,
        examples,
        asked,
        place.folder,
        validation=validation,
        seed=job.seed,
        settings=job.config.get("settings", {}),
        report=report,
    )
    version = register_checkpoints(place, trained.steps, finished=True)[-1]
    if version.kind == "full":  # training changed the base's weights in memory
        place = replace(place, model=load_pretrained(place.model.folder, place.settings.dtype, name=place.base.name))
    improve.evaluate(place, version)
    improve.judge_version(place, version)
    return version, trained.trained_tokens, [write_result_file(store, job)]


def register_checkpoints(place: Workplace, step: int, finished: bool = False) -> list[ModelVersion]:
    """Make each checkpoint up to `step` (`versions/step-000010` in the job's folder) a version with a name of its own.

    With `finished` the last one is the job's result and a candidate; the others are kept in the archive.
    """
    from tutee import improve

    job, jobs = place.job, place.store.jobs
    result_name = f"ft:{place.base.name}:tutee:{job.suffix or ''}:{job.id[-8:]}"
    listed = {checkpoint.step for checkpoint in jobs.checkpoints(job.id, limit=100)}
    versions = []
    for folder in sorted((place.folder / "versions").glob("step-*")):
        saved = int(folder.name.removeprefix("step-"))
        if saved > step or (saved in listed and not finished):
            continue
        is_result = finished and saved == step
        name = result_name if is_result else f"{result_name}:ckpt-step-{saved}"
        version = improve.register(place, folder, name=name)
        if not is_result and version.state == "candidate":
            version = place.store.versions.set_state(version.id, "archived", why="A checkpoint on the way.")
        if saved not in listed:
            at_step = {key: dict(values).get(saved) for key, values in jobs.metrics(job.id).items()}
            metrics = {key: value for key, value in at_step.items() if value is not None}
            jobs.checkpoint(job.id, saved, version.folder, metrics, version.name)
        versions.append(version)
    return versions


def write_result_file(store: Store, job: Job) -> str:
    """The job's metrics as the CSV file that OpenAI's clients download; written once, returns its id."""
    filename = f"{job.id}-metrics.csv"
    known = next((f for f in store.files.list(purpose="fine-tune-results", limit=100) if f.filename == filename), None)
    if known is not None:
        return known.id
    series = {name: dict(values) for name, values in store.jobs.metrics(job.id).items()}
    columns = [*RESULT_COLUMNS, *sorted(set(series) - set(RESULT_COLUMNS))]
    steps = sorted({step for values in series.values() for step in values})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", *columns])
    table.writerows([step, *(series.get(column, {}).get(step) for column in columns)] for step in steps)
    return store.files.add(text.getvalue().encode(), filename, "fine-tune-results", job.actor_id).id


class Lease:
    """Keeps a job's lease alive from a thread, and notices when it was lost."""

    def __init__(self, store: Store, job_id: str, worker_id: str) -> None:
        self.lost = False
        self._renew = lambda: store.jobs.renew(job_id, worker_id, LEASE_SECONDS)
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
        CancelledError, InterruptedJobError.
    """

    def __init__(self, store: Store, job: Job, lease: Lease, stopping: threading.Event) -> None:
        self.store = store
        self.job = job
        self.lease = lease
        self.stopping = stopping
        self.stages: tuple[str, ...] = ()
        self._written = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        if self.lease.lost or self.stopping.is_set():
            raise InterruptedJobError
        if self.store.jobs.cancelled(self.job.id):
            raise CancelledError
        if progress.metrics:
            self.store.jobs.metric(self.job.id, progress.step, dict(progress.metrics))
        stage, when = self._written
        now = time.monotonic()
        if stage == progress.stage and now - when < WRITE_SECONDS and progress.step < progress.total:
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
        )


def free_memory() -> None:
    """Give the memory of a finished job's model back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
