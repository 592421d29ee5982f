"""The command as people and scripts use it: real processes on a real home, with a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tutee.cli import training
from tutee.cli.settings_option import parse_settings
from tutee.errors import InvalidInput
from tutee.lock import in_turn
from tutee.store import Store

KILLED = """
import os, signal
from tutee.worker.report import Reporter
report = Reporter.__call__
def report_and_die(self, progress):
    report(self, progress)
    if (progress.stage, progress.step) == ("reinforce", 2):
        os.killpg(0, signal.SIGKILL)
Reporter.__call__ = report_and_die
"""
"""Kills a command and its worker in its second step. Whoever watched from outside might come too late."""


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path) -> Path:
    """A home whose base model is the tiny one, with nothing in it yet."""
    folder = tmp_path / "home"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "tiny").symlink_to(tiny_folder)
    return folder


def tutee(home: Path, *arguments: str, status: int = 0) -> str:
    environment = {**os.environ, "TUTEE_HOME": str(home), "TUTEE_MODEL": "tiny", "TUTEE_DTYPE": "float32"}
    command = [sys.executable, "-m", "tutee", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if status == 0 else done.stderr


def examples(path: Path, count: int) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i} it is"}]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_train_makes_a_version_that_can_be_promoted_traced_exported_and_rolled_back(home: Path, tmp_path: Path) -> None:
    data = examples(tmp_path / "data.jsonl", 12)
    run = ("train", "sft", "--data", str(data), "--model", "tiny", "--set", "epochs=1", "--json")
    job = json.loads(tutee(home, *run))
    assert job["status"] == "succeeded"
    rows: list[dict[str, Any]] = json.loads(tutee(home, "versions", "--json"))
    assert (rows[0]["number"], rows[0]["state"]) == (0, "live")
    version = next(row for row in rows if row["name"] == job["version"])
    assert version["parent_id"] == rows[0]["id"]

    refused = tutee(home, "promote", job["version"], status=1)
    assert "override with a reason" in " ".join(refused.split())
    tutee(home, "promote", job["version"], "--override", "--reason", "a test")
    assert json.loads(tutee(home, "versions", "--json"))[version["number"]]["state"] == "live"
    assert "Feedback that made" in tutee(home, "trace", str(version["number"]))
    tutee(home, "models", "export", "chat", str(tmp_path / "merged"))
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert "version 0" in tutee(home, "rollback", "--reason", "a test")


def test_a_bad_line_fails_the_job_and_names_it(home: Path, tmp_path: Path) -> None:
    data = examples(tmp_path / "data.jsonl", 12)
    lines = data.read_text().splitlines()
    lines[6] = '{"messages": "no"}'
    data.write_text("\n".join(lines))
    said = tutee(home, "train", "supervised", "--data", str(data), "--model", "tiny", status=1)
    assert "line 7" in said


def test_backup_restore_and_doctor(home: Path, tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{home / 'tutee.db'}", home)
    owner = store.actors.get_or_create("owner").id
    conversation = store.conversations.create(owner, title="kept").id
    store.close()
    archive = tutee(home, "backup").strip()
    other = tmp_path / "other"
    tutee(other, "restore", archive)
    store = Store.open(f"sqlite:///{other / 'tutee.db'}", other)
    assert store.conversations.get(conversation, owner).title == "kept"
    store.close()
    tutee(other, "restore", archive, status=1)
    findings = json.loads(tutee(other, "doctor", "--json"))
    assert not [finding for finding in findings if finding["level"] == "error"]


def test_errors_are_one_line_and_status_one(home: Path) -> None:
    said = tutee(home, "promote", "no-such-version", status=1)
    assert said.startswith("error")
    assert "Traceback" not in said
    assert "--set" in tutee(home, "improve", "--set", "novalue", status=1)


def test_chat_without_a_server_says_how_to_start_one(home: Path) -> None:
    said = tutee(home, "chat", "--url", "http://127.0.0.1:9", status=1)
    assert "tutee serve" in said
    assert "--url" in said
    assert tutee(home, "chat", "--url", "nonsense", status=1).startswith("error: The connection to nonsense")


def test_help_teaches(home: Path) -> None:
    said = tutee(home, "--help")
    for verb in ("serve", "chat", "models", "feedback", "improve", "train", "jobs", "versions", "promote", "rollback"):
        assert verb in said


def test_settings_are_json_where_they_can_be() -> None:
    assert parse_settings(["a=1", "b=1e-4", "c=auto", "d=true"]) == {"a": 1, "b": 1e-4, "c": "auto", "d": True}
    with pytest.raises(InvalidInput):
        parse_settings(["a"])


def test_a_run_that_was_killed_goes_on_with_the_same_command(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"say {i}", "answer": f"{i}"}) + "\n" for i in range(6)))
    settings = ("steps=4", "checkpoint_every=1", "prompts=2", "group=2", "max_tokens=4", "rank=2", "format=[a-z].*")
    run = ["train", "ppo", "--data", str(data), "--model", "tiny", *(part for s in settings for part in ("--set", s))]
    (tmp_path / "sitecustomize.py").write_text(KILLED)
    environment = {**os.environ, "TUTEE_HOME": str(home), "TUTEE_MODEL": "tiny", "TUTEE_DTYPE": "float32"}
    environment["PYTHONPATH"] = str(tmp_path)
    first = subprocess.run([sys.executable, "-m", "tutee", *run], env=environment, start_new_session=True, timeout=600)
    assert first.returncode == -signal.SIGKILL
    with in_turn(home / "worker.lock"):  # its worker is gone, too
        store = Store.open(f"sqlite:///{home / 'tutee.db'}", home)
    jobs = store.jobs.list().data
    assert (home / "jobs" / jobs[0].id / "checkpoints" / "step-000001").exists()
    assert jobs[0].status == "running"
    said = json.loads(tutee(home, *run, "--json"))
    assert said["id"] == jobs[0].id
    assert said["status"] == "succeeded"
    steps = [step for step, _ in store.jobs.metrics(jobs[0].id)["reward"]]
    assert steps == [1, 2, 3, 4]
    messages = [event.message for event in store.jobs.events(jobs[0].id).data]
    assert any("goes on where it stopped" in message for message in messages)
    assert any(message.startswith("ppo: ") for message in messages)
    store.close()


def test_a_folder_needs_no_home(home: Path, tmp_path: Path, tiny_folder: Path) -> None:
    data = examples(tmp_path / "data.jsonl", 6)
    run = ("train", "sft", "--data", str(data), "--model", str(tiny_folder), "--folder", str(tmp_path / "out"))
    said = json.loads(tutee(home, *run, "--set", "epochs=1", "--json"))
    assert Path(said["folder"], "adapter_config.json").is_file()
    assert not (home / "tutee.db").exists()


def test_the_help_of_a_method_teaches_it(home: Path) -> None:
    said = tutee(home, "train", "dpo", "--help")
    for part in ("preferred_output", "beta=0.1", "Strength of the tie", "log π/π_ref", "learning_rate=0.0002"):
        assert part in said
    from tutee.train.methods import METHODS

    assert {name: method.says for name, method in METHODS.items()} == training.METHODS


def test_settings_of_another_method_are_refused_with_the_list(home: Path, tmp_path: Path, tiny_folder: Path) -> None:
    data = examples(tmp_path / "data.jsonl", 6)
    run = ("train", "sft", "--data", str(data), "--model", str(tiny_folder), "--folder", str(tmp_path / "out"))
    said = tutee(home, *run, "--set", "beta=0.1", status=1)
    assert "not a setting of sft" in said
    assert "learning_rate" in said
    assert "--data" in tutee(home, "train", "sft", "--model", "tiny", status=1)


def test_pretraining_a_model_that_is_not_there_does_not_make_a_new_one(home: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("One day.")
    run = (
        "train",
        "pretrain",
        "--data",
        str(text),
        "--model",
        str(tmp_path / "typo"),
        "--folder",
        str(tmp_path / "out"),
    )
    assert "is not a model folder" in tutee(home, *run, status=1)
