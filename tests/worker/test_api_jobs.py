"""Jobs as the API makes them: files are checked first, graders reward, and a pause changes nothing but the time."""

from __future__ import annotations

import csv
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_worker import add_file, after_step, chat_lines, pair_lines, run_all, wait_until, worker_process
from tests.tiny_home import EXAM, settings_for
from tutee.store import Store
from tutee.store.schema import Job
from tutee.worker.checking import Checker, check_next
from tutee.worker.run import Worker

LENGTH = {
    "type": "python",
    "name": "short",
    "source": "def grade(sample, item):\n    return 1 / (1 + len(sample['output_text']))",
}
LIKE = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference }}",
    "evaluation_metric": "fuzzy_match",
}


@pytest.fixture
def home(planted_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planted_home, tmp_path / "home"))


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    opened = Store.open(settings_for(home).url, home)
    yield opened
    opened.close()


def question_lines(n: int) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": f"Say {i}."}], "reference": f"It is {i}."} for i in range(n)]


def add_unchecked(store: Store, method: str, lines: list[Any], **config: Any) -> Job:
    whole = {"hyperparameters": {}, "exam": EXAM, **config}
    return store.jobs.add(method, "tiny", whole, training_file=add_file(store, lines), status="validating_files")


def table_of(store: Store, job: Job) -> list[dict[str, str]]:
    with store.files.open(store.jobs.get(job.id).result_files[0]) as stream:
        return list(csv.DictReader(stream.read().decode().splitlines()))


def add_reinforcement(store: Store, grader: dict[str, Any] = LIKE, **config: Any) -> Job:
    given = {"n_epochs": 1, "batch_size": 2, "compute_multiplier": 0.5, "eval_interval": 2}
    settings = {"rank": 2, "max_tokens": 6, "checkpoint_every": 2}
    config = {"hyperparameters": given, "settings": settings, "grader": grader, **config}
    return add_unchecked(store, "reinforcement", question_lines(11), **config)


def test_a_reinforcement_job_from_its_file_to_models_and_curves(home: Path, store: Store) -> None:
    job = add_reinforcement(store)
    while check_next(store):
        pass
    checked = store.jobs.get(job.id)
    assert checked.status == "queued"
    assert checked.config["hyperparameters"] == {
        "n_epochs": 1,
        "batch_size": 2,
        "learning_rate_multiplier": 1.0,
        "reasoning_effort": "default",
        "compute_multiplier": 0.5,
        "eval_interval": 2,
        "eval_samples": 8,
        "x_algorithm": "grpo",
    }
    run_all(home, store)
    job = store.jobs.get(job.id)
    assert job.error is None
    table = table_of(store, job)
    assert [row["step"] for row in table] == ["1", "2", "3", "4", "5"]
    assert all(0 <= float(row["train_reward_mean"]) <= 1 for row in table)
    assert [row["step"] for row in table if row["valid_reward_mean"]] == ["1", "2", "4", "5"]
    checkpoints = store.jobs.checkpoints(job.id)
    assert [(row.step, row.fine_tuned_model_checkpoint) for row in checkpoints] == [
        (5, job.fine_tuned_model),
        (4, f"{job.fine_tuned_model}:ckpt-step-4"),
        (2, f"{job.fine_tuned_model}:ckpt-step-2"),
    ]
    assert "valid_reward_mean" in checkpoints.data[0].metrics
    for row in checkpoints:
        folder = store.versions.get(str(row.fine_tuned_model_checkpoint)).folder
        assert (home / folder / "adapter_model.safetensors").exists()
    events = [event.message for event in store.jobs.events(job.id, limit=100)]
    assert any("one" not in said and said.startswith("Step 5/5: reward=") for said in events)
    assert any("validation file" in said for said in events)


def test_curves_for_weights_and_biases_are_written_offline(home: Path, store: Store, tmp_path: Path) -> None:
    asked = [{"type": "wandb", "wandb": {"project": "tuning", "name": "first", "tags": ["a"]}}]
    job = add_unchecked(store, "supervised", chat_lines(4), settings={"rank": 2}, integrations=asked)
    check_next(store)
    run_all(home, store)
    assert store.jobs.get(job.id).error is None
    said = [event.message for event in store.jobs.events(job.id, limit=100)]
    assert f"The run for Weights & Biases is in jobs/{job.id}/wandb; `wandb sync` sends it." in said
    (written,) = (home / "jobs" / job.id / "wandb").glob("offline-run-*/*.wandb")
    text, curve = written.read_bytes(), [row["train_loss"] for row in table_of(store, job)]
    assert len(curve) > 1
    for value in curve:
        assert value.encode() in text, f"the run does not hold the loss {value}"
    assert text.count(b"train_loss") >= len(curve)


def test_a_python_grader_rewards_and_the_other_algorithms_run(home: Path, store: Store) -> None:
    given = {"n_epochs": 1, "batch_size": 4, "compute_multiplier": 0.25}
    jobs = [
        add_reinforcement(store, LENGTH, hyperparameters=given | {"x_algorithm": algorithm})
        for algorithm in ("rloo", "ppo")
    ]
    while check_next(store):
        pass
    run_all(home, store)
    for job in jobs:
        assert store.jobs.get(job.id).error is None
        assert all(0 < float(row["train_reward_mean"]) <= 1 for row in table_of(store, job))


def test_answers_without_the_form_earn_nothing(home: Path, store: Store) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    job = add_reinforcement(store, response_format=form)
    check_next(store)
    run_all(home, store)
    assert store.jobs.get(job.id).error is None
    assert {float(row["train_reward_mean"]) for row in table_of(store, job)} == {0.0}


def test_a_grader_that_always_fails_ends_the_job_with_its_words(home: Path, store: Store) -> None:
    broken = LENGTH | {"source": "def grade(sample, item):\n    raise ValueError('no such thing')"}
    job = add_reinforcement(store, broken)
    check_next(store)
    run_all(home, store)
    error = store.jobs.get(job.id).error or {}
    assert error["code"] == "grader_error_rate"
    assert "no such thing" in error["message"]


@pytest.mark.parametrize("method", ["supervised", "dpo", "reinforcement", "reward_model"])
def test_line_seven_fails_the_job_while_another_one_trains(store: Store, method: str) -> None:
    lines: dict[str, list[Any]] = {
        "supervised": chat_lines(9),
        "dpo": pair_lines(9),
        "reinforcement": question_lines(9),
        "reward_model": pair_lines(9),
    }
    busy = store.jobs.add("improve", "tiny", {})
    assert store.jobs.lease("somebody", 60).id == busy.id  # type: ignore[union-attr]
    bad = [*lines[method][:6], "{broken", *lines[method][7:]]
    extra = {"grader": LIKE} if method == "reinforcement" else {}
    job, good = (add_unchecked(store, method, rows, **extra) for rows in (bad, lines[method]))
    stopping = threading.Event()
    with Checker(store, stopping):
        wait_until(lambda: store.jobs.get(good.id).status == "queued")
    error = store.jobs.get(job.id).error or {}
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "line 7" in error["message"]
    numbers = store.jobs.get(good.id).config["hyperparameters"]
    assert "auto" not in numbers.values()
    assert numbers["n_epochs"] >= 1


def test_a_row_without_what_the_grader_looks_at_is_named(store: Store) -> None:
    rows = question_lines(8)
    del rows[4]["reference"]
    job = add_unchecked(store, "reinforcement", rows, grader=LIKE)
    check_next(store)
    error = store.jobs.get(job.id).error or {}
    assert error["param"] == "training_file"
    assert "line 5" in error["message"]
    assert "item.reference" in error["message"]


def test_both_preference_dialects_come_to_the_same(store: Store) -> None:
    other = {"preferred_output": "preferred_completion", "non_preferred_output": "non_preferred_completion"}
    renamed = [{other.get(key, key): value for key, value in line.items()} for line in pair_lines(12)]
    jobs = [add_unchecked(store, "dpo", lines) for lines in (pair_lines(12), renamed)]
    while check_next(store):
        pass
    one, two = (store.jobs.get(job.id) for job in jobs)
    assert one.status == two.status == "queued"
    assert one.config["hyperparameters"] == two.config["hyperparameters"]


@pytest.mark.parametrize("method", ["supervised", "reinforcement"])
def test_a_paused_job_lets_others_by_and_ends_with_the_same_bits(
    home: Path, store: Store, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add() -> Job:
        if method == "reinforcement":
            return add_reinforcement(store)
        given = {"n_epochs": 8, "batch_size": 2}
        return add_unchecked(store, method, chat_lines(10), hyperparameters=given, settings={"rank": 2})

    straight = add()
    check_next(store)
    run_all(home, store)
    paused = add()
    check_next(store)
    after_step(monkeypatch, paused.id, 3, lambda: store.jobs.request_pause(paused.id))
    Worker(settings_for(home), store, threading.Event()).run_next()
    held = store.jobs.get(paused.id)
    assert (held.status, held.lease_owner, held.version_id) == ("paused", None, None)
    by = add_unchecked(store, "supervised", chat_lines(4), hyperparameters={"n_epochs": 1}, settings={"rank": 2})
    check_next(store)
    run_all(home, store)
    assert store.jobs.get(by.id).status == "succeeded"
    assert store.jobs.resume(paused.id).status == "queued"
    run_all(home, store)
    ended = [store.jobs.get(job.id) for job in (straight, paused)]
    assert [job.status for job in ended] == ["succeeded"] * 2
    made = [store.versions.get(str(job.version_id)) for job in ended]
    assert made[0].weights_sha256 == made[1].weights_sha256
    assert table_of(store, straight) == table_of(store, paused)
    assert ended[0].trained_tokens == ended[1].trained_tokens


def test_a_reinforcement_job_outlives_a_worker_that_is_killed(home: Path, store: Store) -> None:
    straight, killed = add_reinforcement(store), add_reinforcement(store)
    with worker_process(home, dies_at=(killed.id, 3)) as process:
        assert process.wait(300) == -signal.SIGKILL
    assert store.jobs.get(killed.id).status == "running"
    worker = Worker(settings_for(home), store, threading.Event())
    worker.recover()
    assert worker.run_next()
    ended = [store.jobs.get(job.id) for job in (straight, killed)]
    assert [(job.status, job.attempts) for job in ended] == [("succeeded", 1), ("succeeded", 2)]
    made = [store.versions.get(str(job.version_id)) for job in ended]
    assert made[0].weights_sha256 == made[1].weights_sha256
    assert table_of(store, straight) == table_of(store, killed)
    assert len([version for version in store.versions.list() if version.job_id == killed.id]) == 3


def test_a_reward_model_from_the_api_judges_the_next_job(home: Path, store: Store) -> None:
    given = {"n_epochs": 1}
    first = add_unchecked(store, "reward_model", pair_lines(6), hyperparameters=given, settings={"rank": 2})
    check_next(store)
    run_all(home, store)
    judge = store.jobs.get(first.id)
    assert judge.error is None
    assert table_of(store, judge)[0].keys() >= {"train_loss", "reward_accuracy", "reward_margin"}
    message = (
        {"role": "user", "content": "{{ item.reference }}"},
        {"role": "assistant", "content": "{{ sample.output_text }}"},
    )
    grader = {"type": "score_model", "name": "judge", "model": judge.fine_tuned_model, "input": list(message)}
    job = add_reinforcement(store, grader)
    check_next(store)
    run_all(home, store)
    assert store.jobs.get(job.id).error is None
    assert all(0 < float(row["train_reward_mean"]) < 1 for row in table_of(store, job))
    assert store.versions.get(str(judge.version_id)).card["kind"] == "reward_model"
