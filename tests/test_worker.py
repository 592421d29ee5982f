"""The worker takes jobs, reports, and leaves no half-done work behind however it ends."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_home import EXAM, add_improve, settings_for
from tutee.errors import Busy
from tutee.lock import is_held, only_one
from tutee.store import Store
from tutee.store.schema import Job
from tutee.train.progress import Progress
from tutee.worker import run_worker
from tutee.worker.report import InterruptedJobError, Lease, Reporter
from tutee.worker.run import Worker

PROGRAM = """
from tutee.settings import load_settings
from tutee.worker import run_worker
run_worker(load_settings(), once={})
"""
DYING = """
import os, signal
from tutee.worker.report import Reporter
report = Reporter.__call__
def report_and_die(self, progress):
    report(self, progress)
    if self.job.id == {!r} and len(self.store.jobs.metrics(self.job.id).get("learning_rate", [])) >= {}:
        os.kill(os.getpid(), signal.SIGKILL)
Reporter.__call__ = report_and_die
"""
"""`kill -9` after so many steps of a job. Whoever watched from outside would come too late on a busy machine."""


@pytest.fixture
def home(planted_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planted_home, tmp_path / "home"))


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    opened = Store.open(settings_for(home).url, home)
    yield opened
    opened.close()


@contextmanager
def worker_process(
    home: Path, once: bool = True, dies_at: tuple[str, int] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of its own; `dies_at` is a job and after how many of its steps the worker is killed."""
    settings = {"TUTEE_HOME": str(home), "TUTEE_MODEL": "tiny", "TUTEE_DTYPE": "float32", "TUTEE_THREADS": "1"}
    environment = {**os.environ, **settings, "OMP_NUM_THREADS": "1"}
    program = (DYING.format(*dies_at) if dies_at else "") + PROGRAM.format(once)
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(done: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def run_all(home: Path, store: Store, stopping: threading.Event | None = None) -> Worker:
    """Run every queued job in this process."""
    worker = Worker(settings_for(home), store, stopping or threading.Event())
    while worker.run_next():
        pass
    return worker


def steps_of(store: Store, job_id: str) -> list[int]:
    return [step for step, _ in store.jobs.metrics(job_id).get("learning_rate", [])]


def after_step(monkeypatch: pytest.MonkeyPatch, job: str, step: int, act: Callable[[], object]) -> None:
    """Do `act` once, when a worker in this process has recorded this step of the job: not a step later, however busy
    the machine is."""
    report, done = Reporter.__call__, threading.Event()

    def report_and_act(self: Reporter, progress: Progress) -> None:
        report(self, progress)
        if self.job.id == job and not done.is_set() and len(steps_of(self.store, job)) >= step:
            done.set()
            act()

    monkeypatch.setattr(Reporter, "__call__", report_and_act)


def add_file(store: Store, lines: list[Any], name: str = "train.jsonl") -> str:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    return store.files.add(text.encode(), name, "fine-tune", None).id


def chat_lines(n: int) -> list[Any]:
    return [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"It is {i}."}]}
        for i in range(n)
    ]


def pair_lines(n: int) -> list[Any]:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return [
        {
            "input": {"messages": [{"role": "user", "content": f"Say {i}."}]},
            "preferred_output": said(f"It is {i}."),
            "non_preferred_output": said("na na na na"),
        }
        for i in range(n)
    ]


def add_api_job(store: Store, method: str, lines: list[Any], **hyperparameters: Any) -> Job:
    config = {"hyperparameters": hyperparameters, "settings": {"rank": 2}, "exam": EXAM}
    return store.jobs.add(method, "tiny", config, training_file=add_file(store, lines), suffix="mine")


def test_an_api_job_ends_with_named_versions_checkpoints_and_a_result_file(home: Path, store: Store) -> None:
    job = add_api_job(store, "supervised", chat_lines(10), n_epochs=2, batch_size="auto")
    run_all(home, store)
    job = store.jobs.get(job.id)
    assert job.error is None
    assert job.status == "succeeded"
    assert job.fine_tuned_model == f"ft:tiny:tutee:mine:{job.id[-8:]}"
    assert job.config["hyperparameters"] == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0}
    assert job.trained_tokens
    assert steps_of(store, job.id) == [1, 2, 3, 4, 5, 6]
    version = store.versions.get(job.fine_tuned_model)
    assert (version.id, version.state) == (job.version_id, "candidate")
    assert [(c.step, c.fine_tuned_model_checkpoint) for c in store.jobs.checkpoints(job.id)] == [
        (6, version.name),
        (3, f"{version.name}:ckpt-step-3"),
    ]
    lines = [event for event in store.jobs.events(job.id) if event.type == "metrics"]
    assert [event.data["step"] for event in lines if event.data] == [6, 5, 4, 3, 2, 1]
    assert "training loss" in lines[0].message
    assert {path.name for path in (home / "jobs" / job.id).iterdir()} == {"metrics.jsonl", "tensorboard"}
    early = store.versions.get(f"{version.name}:ckpt-step-3")
    assert early.state == "archived"
    assert (home / early.folder / "adapter_model.safetensors").exists()
    assert {row.suite for row in store.evaluations.list(version.id)} >= {"drift.kl", "capability.lost"}
    length = next(row for row in store.evaluations.list(version.id) if row.suite == "drift.length_ratio")
    assert length.detail["chosen_q95"] == 3.0  # "It is 7.": the file says what good answers look like
    table = list(csv.DictReader(store.files.open(job.result_files[0]).read().decode().splitlines()))
    assert [row["step"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert all(float(row["train_loss"]) > 0 for row in table)


def test_a_preference_job_learns_the_preference(home: Path, store: Store) -> None:
    job = add_api_job(store, "dpo", pair_lines(8), n_epochs=3, learning_rate_multiplier=5.0)
    run_all(home, store)
    job = store.jobs.get(job.id)
    assert job.status == "succeeded"
    margins = [value for _, value in store.jobs.metrics(job.id)["reward_margin"]]
    assert margins[0] == pytest.approx(0.0, abs=1e-4)
    assert margins[-1] is not None
    assert margins[-1] > 0.05


def test_all_weights_can_be_trained_with_a_validation_file(home: Path, store: Store) -> None:
    config = {"hyperparameters": {"n_epochs": 1}, "settings": {"full": True}, "exam": EXAM}
    training, validation = add_file(store, chat_lines(8)), add_file(store, chat_lines(2), "v.jsonl")
    job_id = store.jobs.add("supervised", "tiny", config, training_file=training, validation_file=validation).id
    run_all(home, store)
    job = store.jobs.get(job_id)
    assert job.error is None
    version = store.versions.get(str(job.version_id))
    assert version.kind == "full"
    assert (home / version.folder / "config.json").exists()
    assert [step for step, _ in store.jobs.metrics(job_id)["valid_loss"]] == [2]
    # The base in memory was trained away; the distance must be to the base as it was.
    kl = next(row for row in store.evaluations.list(version.id) if row.suite == "drift.kl")
    assert kl.estimate is not None
    assert kl.estimate > 0


@pytest.mark.parametrize(
    ("method", "lines"),
    [("supervised", [*chat_lines(6), "{broken", *chat_lines(2)]), ("dpo", [*pair_lines(6), {"input": {}}])],
)
def test_a_bad_line_seven_fails_the_job_by_name_and_nothing_else(
    home: Path, store: Store, method: str, lines: list[Any]
) -> None:
    bad = add_api_job(store, method, lines)
    good = add_api_job(store, "supervised", chat_lines(4), n_epochs=1)
    run_all(home, store)
    error = store.jobs.get(bad.id).error
    assert error is not None
    assert error["code"] == "invalid_training_file"
    assert error["param"] == "training_file"
    assert "line 7" in error["message"]
    assert store.jobs.get(good.id).status == "succeeded"


def test_training_goes_on_from_an_adapter(home: Path, store: Store) -> None:
    first = add_api_job(store, "supervised", chat_lines(6), n_epochs=2, learning_rate_multiplier=20.0)
    run_all(home, store)
    name = str(store.jobs.get(first.id).fine_tuned_model)
    config = {"hyperparameters": {"n_epochs": 1}, "exam": EXAM}
    second = store.jobs.add("supervised", name, config, training_file=first.training_file)
    other_rank = store.jobs.add("supervised", name, {"settings": {"rank": 4}}, training_file=first.training_file)
    run_all(home, store)
    assert store.jobs.get(second.id).error is None
    losses = [[value for _, value in store.jobs.metrics(job.id)["train_loss"]] for job in (first, second)]
    assert losses[1][0] is not None
    assert losses[0][0] is not None
    assert losses[1][0] < losses[0][0] - 0.1, "it begins where the first one ended"
    made = store.versions.get(str(store.jobs.get(second.id).version_id))
    assert made.parent_id == store.versions.get(name).id, "who is left out of the first is left out of this one"
    assert json.loads((home / made.folder / "adapter_config.json").read_text())["r"] == 2
    assert (store.jobs.get(other_rank.id).error or {}).get("param") == "settings.rank"


def test_a_missing_file_model_or_method_is_named(home: Path, store: Store) -> None:
    gone = store.jobs.add("supervised", "tiny", {}, training_file="file-nothing")
    model = store.jobs.add("improve", "gpt-9", {})
    setting = store.jobs.add("improve", "tiny", {"settings": {"lerning_rate": 1}})
    method = store.jobs.add("alchemy", "tiny", {})
    run_all(home, store)
    found = {job.id: (store.jobs.get(job.id).error or {}).get("param") for job in (gone, model, setting, method)}
    assert list(found.values()) == ["training_file", "model", "settings.lerning_rate", "method"]


def test_a_diverging_job_fails_and_keeps_its_last_good_checkpoint(home: Path, store: Store) -> None:
    job = add_api_job(store, "supervised", chat_lines(8), n_epochs=40)
    overflows_some_steps_later = {"rank": 2, "warmup": 0.9, "learning_rate": 2e18}
    store.jobs.set_config(job.id, job.config | {"settings": overflows_some_steps_later})
    run_all(home, store)
    job = store.jobs.get(job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "training_diverged"
    assert job.error["param"] == "learning_rate"
    assert "last good checkpoint" in job.error["message"]
    assert list((home / "jobs" / job.id / "checkpoints").glob("step-*"))
    kept = store.jobs.checkpoints(job.id).data[0].fine_tuned_model_checkpoint
    assert (home / store.versions.get(str(kept)).folder / "adapter_model.safetensors").exists()
    later = add_api_job(store, "supervised", chat_lines(4), n_epochs=1)
    run_all(home, store)
    assert store.jobs.get(later.id).status == "succeeded"


def test_cancelling_stops_within_one_step(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = add_improve(store)
    after_step(monkeypatch, job_id, 2, lambda: store.jobs.request_cancel(job_id))
    Worker(settings_for(home), store, threading.Event()).run_next()
    assert store.jobs.get(job_id).status == "cancelled"
    assert steps_of(store, job_id) == [1, 2]
    assert all(version.job_id != job_id for version in store.versions.list())


def test_a_worker_told_to_stop_puts_the_job_back_and_another_ends_it(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, stopping = add_improve(store), threading.Event()
    after_step(monkeypatch, job_id, 1, stopping.set)
    Worker(settings_for(home), store, stopping).run_next()
    assert store.jobs.get(job_id).status == "queued"
    run_all(home, store)
    job = store.jobs.get(job_id)
    assert job.status == "succeeded"
    assert job.attempts == 2
    steps = steps_of(store, job_id)
    assert steps == list(range(1, len(steps) + 1))


def test_workers_that_die_or_are_stopped_leave_one_version_and_the_same_steps(home: Path, store: Store) -> None:
    """In real processes: `kill -9` at a random step, SIGTERM later; the next worker goes on and ends the same."""
    undisturbed = add_improve(store)
    run_all(home, store)
    job_id = add_improve(store)
    dice = random.Random(os.environ.get("CRASH_SEED", "0"))
    step = dice.randint(1, len(steps_of(store, undisturbed)) - 1)
    with worker_process(home, dies_at=(job_id, step)) as process:
        assert process.wait(300) == -signal.SIGKILL
    assert store.jobs.get(job_id).status == "running"
    with worker_process(home, once=False) as process:
        wait_until(lambda: store.jobs.get(job_id).attempts == 2)
        time.sleep(dice.random())
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    assert store.jobs.get(job_id).status in ("queued", "succeeded")
    with worker_process(home) as process:
        assert process.wait(300) == 0
    job, expected = store.jobs.get(job_id), store.jobs.get(undisturbed)
    assert job.status == "succeeded"
    assert job.attempts >= 2
    assert steps_of(store, job_id) == steps_of(store, undisturbed)
    assert job.trained_tokens == expected.trained_tokens
    made = [version for version in store.versions.list() if version.job_id == job_id]
    assert [version.id for version in made] == [job.version_id]
    assert made[0].weights_sha256 == store.versions.get(str(expected.version_id)).weights_sha256
    assert not is_held(home / "worker.lock")


def test_a_second_worker_on_the_same_home_is_refused(home: Path) -> None:
    with only_one(home / "worker.lock", "a test"), pytest.raises(Busy, match="in use by a test"):
        run_worker(settings_for(home), once=True)


def test_a_lost_lease_stops_the_work(home: Path, store: Store) -> None:
    job = store.jobs.get(add_improve(store))
    store.jobs.lease("somebody else", 60)
    lease = Lease(store, job.id, "me")
    lease.beat()
    assert lease.lost
    reporter = Reporter(store, job, home, lease, threading.Event())
    with pytest.raises(InterruptedJobError):
        reporter(Progress("train", 1, 2))


def test_an_idle_worker_does_not_load_torch(tmp_path: Path) -> None:
    program = "import sys, tutee.cli.serving\n" + PROGRAM.format(True) + "print('torch' in sys.modules)"
    environment = {**os.environ, "TUTEE_HOME": str(tmp_path / "empty"), "TUTEE_MODEL": "tiny"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
