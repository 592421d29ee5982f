"""The loop: schedule, exact resume after kill -9, divergence, and a golden trajectory."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tutee.errors import Diverged, InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group
from tutee.train.checkpoint import latest_checkpoint, read_checkpoint
from tutee.train.dpo import DpoConfig, dpo_loss, with_references
from tutee.train.loop import LoopConfig, groups_of_step, learning_rate_at, num_steps, train
from tutee.train.progress import Progress
from tutee.train.sft import token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_training import LOOP, examples, singles, ten_steps

SCRIPT = Path(__file__).with_name("tiny_training.py")
GOLDEN = json.loads(Path(__file__).with_name("golden_losses.json").read_text())


@pytest.mark.row(32)
def test_ten_steps_equal_five_a_kill_and_five_bit_for_bit(tmp_path: Path) -> None:
    unbroken, whole = ten_steps(tmp_path / "unbroken")
    killed = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "killed"), "6"], check=False, timeout=600)
    assert killed.returncode == -signal.SIGKILL
    assert latest_checkpoint(tmp_path / "killed").name == "step-000005"
    steps: list[int] = []
    resumed, rest = ten_steps(tmp_path / "killed", lambda progress: steps.append(progress.step))
    assert steps == [6, 7, 8, 9, 10]
    assert rest == whole  # every metric of every step, the trained tokens, the step count
    for a, b in zip(unbroken.lora.parameters(), resumed.lora.parameters(), strict=True):
        assert torch.equal(a, b)
    ours, theirs = (read_checkpoint(tmp_path / name / "step-000010")[0] for name in ("unbroken", "killed"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)  # the moments too


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    _, first = ten_steps(tmp_path)
    steps: list[int] = []
    _, second = ten_steps(tmp_path, lambda progress: steps.append(progress.step))
    assert steps == []
    assert second == first


def test_a_report_that_raises_stops_between_steps(tmp_path: Path) -> None:
    def cancel(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ten_steps(tmp_path, cancel)
    assert latest_checkpoint(tmp_path).name == "step-000002"


def test_checkpoints_of_another_run_are_refused(tmp_path: Path, model: Pretrained) -> None:
    ten_steps(tmp_path)
    trainer = Trainer(model, TrainerConfig(rank=4))
    with pytest.raises(InvalidInput, match="another run"):
        train(trainer, singles(20, seed=9), token_mean_loss, LOOP, tmp_path)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    ten_steps(tmp_path)
    (tmp_path / "step-000010" / "tensors.safetensors").write_bytes(b"half a file")
    with pytest.raises(InvalidInput, match="damaged"):
        read_checkpoint(tmp_path / "step-000010")
    assert latest_checkpoint(tmp_path).name == "step-000009"


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".step-000003.99999.tmp"
    left.mkdir()
    ten_steps(tmp_path)
    assert not left.exists()


@pytest.mark.row(16)
def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path, model: Pretrained) -> None:
    calls = []

    def explodes(logprob_N, batch, totals):  # type: ignore[no-untyped-def]
        calls.append(1)
        loss, metrics = token_mean_loss(logprob_N, batch, totals)
        return loss * (float("nan") if len(calls) > 4 else 1.0), metrics

    trainer = Trainer(model, TrainerConfig(rank=4))
    with pytest.raises(Diverged, match="last good checkpoint is kept"):
        train(trainer, singles(40), explodes, replace(LOOP, checkpoint_every=2), tmp_path)
    tensors, state = read_checkpoint(latest_checkpoint(tmp_path))
    assert state["step"] in (4, 6)
    assert all(torch.isfinite(t).all() for name, t in tensors.items() if name.startswith("parameter."))


def test_a_runaway_loss_stops_the_run(tmp_path: Path, model: Pretrained) -> None:
    with pytest.raises(Diverged, match="ran away"):
        train(
            Trainer(model, TrainerConfig(full=True)),
            singles(40),
            token_mean_loss,
            replace(LOOP, learning_rate=30.0),
            tmp_path,
        )


@pytest.mark.parametrize("shape", ["ipo", "sppo"])
def test_a_loss_that_begins_high_by_its_definition_has_not_run_away(
    tmp_path: Path, model: Pretrained, shape: str
) -> None:
    trainer = Trainer(model, TrainerConfig(rank=4))
    tokens = examples(8, seed=5)
    pairs = with_references([Group.pair(tokens[i], tokens[i + 1]) for i in range(0, 8, 2)], trainer.score)
    history = train(trainer, pairs, DpoConfig(shape=shape).loss(), LOOP, tmp_path).history
    assert history[0]["loss"] == pytest.approx(25 if shape == "ipo" else 50, abs=1e-3)
    assert history[-1]["loss"] < history[0]["loss"]


def test_schedules() -> None:
    linear = LoopConfig(learning_rate=1.0, warmup=0.2)
    assert [learning_rate_at(s, 10, linear) for s in (0, 1, 2, 6, 9)] == pytest.approx([0.5, 1, 1, 0.5, 0.125])
    cosine = replace(linear, schedule="cosine")
    assert [learning_rate_at(s, 10, cosine) for s in (2, 6)] == pytest.approx([1, 0.5])
    assert learning_rate_at(9, 10, replace(linear, schedule="constant", warmup=0.0)) == 1
    assert [learning_rate_at(0, 1, replace(linear, warmup=share)) for share in (0.0, 0.1, 0.99)] == [1, 1, 1]


def test_every_epoch_sees_every_group_once_in_its_own_order() -> None:
    groups = singles(10)
    config = LoopConfig(epochs=2, batch_size=4)
    assert num_steps(10, config) == 6
    epochs = [[group for step in range(3) for group in groups_of_step(groups, 3 * e + step, config)] for e in (0, 1)]
    assert sorted(map(id, epochs[0])) == sorted(map(id, epochs[1])) == sorted(map(id, groups))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("key", ["epochs", "batch_size", "learning_rate", "token_budget"])
def test_settings_out_of_range_are_named(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        LoopConfig(**{key: 0})
    assert caught.value.param == key


def test_golden_trajectory_sft(tmp_path: Path, model: Pretrained) -> None:
    """Change these numbers only for a change that is meant to change training, and say which."""
    trainer = Trainer(model, TrainerConfig(rank=4))
    config = LoopConfig(epochs=4, batch_size=4, learning_rate=1e-2, warmup=0.1)
    losses = [values["loss"] for values in train(trainer, singles(20), token_mean_loss, config, tmp_path).history]
    assert losses == pytest.approx(GOLDEN["sft"], abs=1e-4)
    assert losses[-1] < losses[0] - 0.5


def test_golden_trajectory_dpo(tmp_path: Path, model: Pretrained) -> None:
    trainer = Trainer(model, TrainerConfig(rank=4))
    tokens = examples(40, seed=5)
    pairs = with_references([Group.pair(tokens[i], tokens[i + 1]) for i in range(0, 40, 2)], trainer.score)
    config = LoopConfig(epochs=4, batch_size=4, learning_rate=1e-2, warmup=0.1)
    history = train(trainer, pairs, dpo_loss, config, tmp_path).history
    assert [values["loss"] for values in history] == pytest.approx(GOLDEN["dpo"], abs=1e-4)
    assert history[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert history[-1]["reward_accuracy"] == 1
