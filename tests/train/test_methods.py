"""The one way in: settings checked and explained, files to versions, and going on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tutee.errors import InvalidInput
from tutee.model.value_head import ValueHead
from tutee.train import methods, train
from tutee.train.methods import METHODS, choose, describe, find, read_rows
from tutee.train.progress import Progress
from tutee.train.record import read_metrics
from tutee.train.task import setting_help

SETTINGS = {"epochs": 2, "batch_size": 2, "learning_rate": 1e-2, "rank": 2, "checkpoint_every": 1}


def chats(path: Path, count: int) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i} it is"}]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_python_trains_from_a_file(tiny_folder: Path, tmp_path: Path) -> None:
    data = chats(tmp_path / "data.jsonl", 6)
    trained = train("sft", model=tiny_folder, data=data, folder=tmp_path / "out", dtype="float32", **SETTINGS)
    assert [checkpoint.step for checkpoint in trained.checkpoints] == [3, 6]
    assert (trained.checkpoints[-1].folder / "adapter_config.json").exists()
    lines = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert list((tmp_path / "out" / "tensorboard").rglob("events.*"))


@pytest.mark.row(32)
def test_a_killed_run_goes_on_in_the_same_folder_to_the_same_weights(tiny_folder: Path, tmp_path: Path) -> None:
    data = chats(tmp_path / "data.jsonl", 6)
    program = (
        "import os, signal, sys; from tutee.train import train\n"
        "def report(p):\n    if p.step == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"train('sft', model={str(tiny_folder)!r}, data={str(data)!r}, folder={str(tmp_path / 'killed')!r},"
        f" dtype='float32', report=report, **{SETTINGS!r})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=600)
    assert killed.returncode == -signal.SIGKILL
    seen: list[int] = []
    results = [
        train(
            "sft",
            model=tiny_folder,
            data=data,
            folder=tmp_path / name,
            dtype="float32",
            report=lambda progress: seen.append(progress.step),
            **SETTINGS,
        )
        for name in ("killed", "whole")
    ]
    assert seen[:3] == [4, 5, 6]
    resumed, whole = (load_file(r.checkpoints[-1].folder / "adapter_model.safetensors") for r in results)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    lines = read_metrics(tmp_path / "killed" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_unknown_settings_list_the_known_ones() -> None:
    with pytest.raises(InvalidInput) as caught:
        choose(METHODS["sft"], {"beta": 0.1}, rows=10)
    assert caught.value.param == "settings.beta"
    assert "learning_rate" in caught.value.message
    assert "mean" in caught.value.message
    with pytest.raises(InvalidInput, match="sft, dpo"):
        find("alchemy")
    assert find("supervised") is METHODS["sft"]


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"full": True, "rank": 8}, "settings.rank"),
        ({"momentum": 0.9}, "settings.momentum"),
        ({"optimizer": "muon"}, "settings.optimizer"),
        ({"epochs": 0}, "settings.epochs"),
        ({"learning_rate": "fast"}, "settings.learning_rate"),
        ({"learning_rate": float("inf")}, "settings.learning_rate"),
        ({"schedule": "stairs"}, "settings.schedule"),
    ],
)
def test_settings_that_change_nothing_or_are_out_of_range_are_refused(settings: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        choose(METHODS["sft"], settings, rows=10)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("grpo", {"group": 1}),
        ("grpo", {"variant": "rloo", "group": 1}),
        ("best_of_n", {"group": 1}),
        ("ppo", {"resample": 1, "group": 1}),
        ("grpo", {"recompute": False, "temperature": 0.7}),
        ("grpo", {"clip_high": 0.3}),
        ("ppo", {"value_clip": 0.1}),
        ("grpo", {"kl_estimator": "k2"}),
        ("distillation", {"corrected_kl": False}),
        ("grpo", {"weights": "sequence"}),
        ("ppo", {"kl_horizon": 10}),
        ("ppo", {"ptx_rows": 2}),
        ("ppo", {"format_weight": 1.0}),
    ],
)
def test_what_would_change_nothing_beside_the_other_settings_is_refused(
    method: str, settings: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput, match="would change nothing") as caught:
        choose(METHODS[method], settings, rows=10)
    assert caught.value.param == f"settings.{next(name for name in settings if name not in ('variant', 'temperature'))}"
    assert caught.value.code == "inapplicable_parameter"


def test_what_does_something_beside_the_other_settings_is_taken() -> None:
    choose(METHODS["grpo"], {"group": 1, "baseline": "none"}, rows=10)
    choose(METHODS["ppo"], {"group": 1}, rows=10)
    choose(METHODS["grpo"], {"minibatches": 2, "clip_high": 0.3}, rows=10)
    choose(METHODS["grpo"], {"kl": 0.1, "kl_estimator": "k2"}, rows=10)
    assert "most_kl" not in METHODS["distillation"].settings()  # whose distance from the start nobody measures


@pytest.mark.parametrize(
    ("method", "settings", "param"),
    [
        ("grpo", {"free_length": 4}, "settings.free_length"),
        ("grpo", {"watched": "gold"}, "settings.watched"),
        ("grpo", {"watched": "task"}, "settings.watched"),
        ("best_of_n", {}, "validation_file"),
    ],
)
def test_what_only_the_run_can_see_is_named_too(
    method: str, settings: dict[str, object], param: str, tiny_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ASKED))
    where = {"data": data, "folder": tmp_path / "out", "model": tiny_folder, "dtype": "float32"}
    where |= {"validation": data} if param == "validation_file" else {}
    with pytest.raises(InvalidInput) as caught:
        train(method, **where, prompts=2, group=2, max_tokens=4, rank=2, **settings)
    assert caught.value.param == param


def test_a_watched_reward_is_reported_and_not_learned_from(
    tiny_folder: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ASKED))
    shown: list[dict[str, float]] = []
    train(
        "grpo",
        data=data,
        folder=tmp_path / "out",
        model=tiny_folder,
        dtype="float32",
        **{**ROLLOUTS, "steps": 1, "grader": files["GRADER"], "format": "(?s).*", "watched": "grader"},
        report=lambda progress: shown.append(dict(progress.metrics)),
    )
    assert shown[0]["reward/grader"] > 0
    assert shown[0]["reward"] == pytest.approx(0.2)  # the format's weight alone


def test_a_judge_that_cannot_read_the_policys_tokens_is_refused(
    tiny_folder: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    judge, data = tmp_path / "judge", tmp_path / "data.jsonl"
    shutil.copytree(tiny_folder, judge)
    ValueHead(json.loads((judge / "config.json").read_text())["hidden_size"]).save(judge)
    data.write_text("".join(json.dumps(row) + "\n" for row in ASKED))

    def run(name: str) -> methods.Trained:
        where = {"data": data, "folder": tmp_path / name, "model": tiny_folder, "dtype": "float32"}
        return train("ppo", **where, **{**ROLLOUTS, "steps": 1, "reward_model": str(judge)})

    assert run("same").steps == 1
    for place in (judge / "tokenizer_config.json", judge / "chat_template.jinja"):
        if place.exists():
            place.write_text(place.read_text().replace("assistant", "helper"))
    with pytest.raises(InvalidInput, match="another tokenizer or chat template") as caught:
        run("other")
    assert caught.value.param == "settings.reward_model"


def test_a_shape_is_a_new_models(tiny_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("One day.\n\nAnother day.")
    with pytest.raises(InvalidInput, match="it is a new model's") as caught:
        train("pretrain", data=text, folder=tmp_path / "out", model=tiny_folder, dtype="float32", layers=2)
    assert caught.value.param == "settings.layers"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_explains_itself(method: methods.Method) -> None:
    chosen = choose(method, {}, rows=100)
    line = describe(method, chosen, 100)
    assert line.startswith(f"{method.name}: ")
    assert "{" not in line
    assert "\n" not in line
    unexplained = [setting.name for setting in setting_help(method) if not setting.says]
    assert unexplained == []


def test_a_bad_line_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    with pytest.raises(InvalidInput, match="line 1") as caught:
        train("sft", model=tmp_path / "no-model", data=path, folder=tmp_path / "out")
    assert caught.value.param == "data"
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_rows(METHODS["sft"], tmp_path / "absent.jsonl")


FAST = {"learning_rate": 1e-3, "rank": 2}
ROLLOUTS = {**FAST, "prompts": 2, "group": 2, "max_tokens": 4, "steps": 2}
PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": f"say {i}"}]},
        "preferred_output": [{"role": "assistant", "content": f"{i}"}],
        "non_preferred_output": [{"role": "assistant", "content": "no, no"}],
    }
    for i in range(4)
]
CHATS = [
    {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i} it is"}]}
    for i in range(4)
]
THUMBS = [{"prompt": f"say {i}", "completion": f"{i}", "label": i % 2 == 0} for i in range(4)]
ASKED = [{"prompt": f"say {i}", "answer": f"{i}"} for i in range(4)]
RUNS = {
    "sft": (CHATS, FAST),
    "dpo": (PAIRS, FAST),
    "kto": (THUMBS, FAST),
    "reward": ([*PAIRS, {"prompt": "Hi", "completions": ["a", "b", "c"]}], {**FAST, "probed": True}),
    "pretrain": ("One day.\n\nAnother day.", {"vocabulary": 270, "layers": 1, "width": 16, "heads": 2, "context": 16}),
    "offline_distillation": (CHATS, FAST),
    "best_of_n": (ASKED, {**FAST, "prompts": 2, "group": 8, "max_tokens": 100, "rounds": 1, "grader": "GRADER"}),
    "grpo": (ASKED, {**ROLLOUTS, "variant": "dr_grpo"}),
    "ppo": (ASKED, {**ROLLOUTS, "grader": "GRADER", "ptx": 0.1, "ptx_data": "CHATS"}),
    "distillation": (ASKED, ROLLOUTS),
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """What settings name: a grader and a file to mix in."""
    grader = tmp_path / "grader.py"
    grader.write_text("def grade(sample, item):\n    return len(sample['output_text']) / 10\n")
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    return {"GRADER": f"{grader}:grade", "CHATS": str(chats)}


def test_every_method_is_run_here() -> None:
    assert RUNS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", RUNS)
def test_every_method_trains_from_its_file_and_answers_at_once_when_asked_again(
    name: str, tiny_folder: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    rows, given = RUNS[name]
    data = tmp_path / "data"
    data.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    settings = {key: files.get(value, value) if isinstance(value, str) else value for key, value in given.items()}
    if "distillation" in name:
        settings["teacher"] = str(tiny_folder)
    model = tiny_folder if METHODS[name].needs_model else None
    steps: list[str] = []

    def run() -> methods.Trained:
        where = {"data": data, "folder": tmp_path / "out", "model": model, "dtype": "float32"}
        return train(name, **where, report=lambda progress: steps.append(progress.stage), **settings)

    first = run()
    assert set(steps) == set(METHODS[name].stages)
    assert first.steps > 0
    assert list(first.checkpoints[-1].folder.glob("*.safetensors"))
    assert read_metrics(tmp_path / "out" / "metrics.jsonl")
    done = len(steps)
    assert run() == first
    assert len(steps) == done


def test_a_question_without_an_answer_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "c"}\n')
    with pytest.raises(InvalidInput, match="line 2 has no text 'answer'"):
        train("grpo", data=data, folder=tmp_path / "out", model=tiny_folder, dtype="float32")


def test_reinforcement_validates_at_intervals_and_keeps_a_version_of_each(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("data", "valid"):
        rows = [{"prompt": f"{name} {i}", "answer": "a"} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown: dict[int, list[str]] = {}

    def note(progress: Progress) -> None:
        shown[progress.step] = sorted(name for name in progress.metrics if name.startswith("valid_"))

    settings = {"steps": 5, "prompts": 2, "group": 2, "max_tokens": 4, "rank": 2, "eval_interval": 2, "eval_samples": 3}
    trained = train(
        "grpo",
        data=tmp_path / "data.jsonl",
        validation=tmp_path / "valid.jsonl",
        folder=tmp_path / "out",
        model=tiny_folder,
        dtype="float32",
        report=note,
        match="none",
        format="[a-m].*",
        **settings,
    )
    looked = ["valid_finished", "valid_length", "valid_reward"]
    assert shown == {1: looked, 2: looked, 3: [], 4: looked, 5: looked}
    assert [checkpoint.step for checkpoint in trained.checkpoints] == [2, 4, 5]
    assert all("valid_reward" in checkpoint.metrics for checkpoint in trained.checkpoints)
    assert all((checkpoint.folder / "adapter_config.json").is_file() for checkpoint in trained.checkpoints)


class BrokenOffError(Exception):
    """Stands for whatever ended the process."""


def test_a_folder_is_one_runs_alone(tiny_folder: Path, tmp_path: Path) -> None:
    """Going on with another loss or other data would be neither run; a finished one is not the result of another."""
    data, other = tmp_path / "pairs.jsonl", tmp_path / "other.jsonl"
    for path, rows in ((data, PAIRS), (other, PAIRS[1:])):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {**FAST, "batch_size": 2, "epochs": 2, "checkpoint_every": 1}

    def run(path: Path = data, *, fails_at: int = 99, **changes: object) -> methods.Trained:
        def report(progress: Progress) -> None:
            if progress.step == fails_at:
                raise BrokenOffError

        where = {"model": tiny_folder, "folder": tmp_path / "out", "dtype": "float32", "report": report}
        return train("dpo", data=path, **where, **{**settings, **changes})

    def refused(*differ: str, path: Path = data, **changes: object) -> None:
        with pytest.raises(InvalidInput, match=f"with another {', '.join(differ)}[.]") as caught:
            run(path, **changes)
        assert caught.value.code == "wrong_checkpoint"

    with pytest.raises(InvalidInput, match="'beta' must be above 0"):
        run(beta=-1.0)
    with pytest.raises(BrokenOffError):
        run(fails_at=3)
    refused("beta", beta=0.5)
    refused("beta", "shape", beta=0.5, shape="ipo")
    refused("data", path=other)
    finished = run(token_budget=100, checkpoint_every=3)  # how it is computed, not what comes out
    refused("data", path=other)
    assert run() == finished
