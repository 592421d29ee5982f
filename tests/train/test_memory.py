"""The estimate against measured peaks of real steps, and what a run that cannot fit is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.peak_memory import SHAPE
from tutee.conversation import Message
from tutee.data.openai_format import Supervised
from tutee.errors import InvalidInput
from tutee.model.decoder import Decoder
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import Pretrained
from tutee.train import memory
from tutee.train.memory import adapter_parameters, available, estimate, parameters, refuse_too_large
from tutee.train.methods import METHODS, run
from tutee.train.trainer import TrainerConfig

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("run", ["full float32 1024 128", "lora float32 1024 256", "full bfloat16 2048 128"])
def test_the_estimate_is_within_a_third_of_the_measured_peak(run: str) -> None:
    command = [sys.executable, "-m", "tests.train.peak_memory", *run.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = json.loads(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True).stdout)
    assert said["estimated"] == pytest.approx(said["measured"], rel=0.33), said["parts"]


def test_parameters_are_counted_exactly() -> None:
    assert sum(parameters(SHAPE)) == sum(p.numel() for p in Decoder(SHAPE).parameters())
    lora = Lora(SHAPE, LoraConfig(rank=4))
    assert adapter_parameters(SHAPE, 4) == sum(p.numel() for p in lora.parameters())


def test_a_run_that_cannot_fit_says_so_with_numbers_and_advice() -> None:
    wanted = estimate(SHAPE, TrainerConfig(full=True), torch.float32, 100_000, 512)
    refuse_too_large(wanted, full=True, most=wanted.total)
    with pytest.raises(InvalidInput) as caught:
        refuse_too_large(wanted, full=True, most=wanted.total / 2)
    message = caught.value.message
    assert caught.value.code == "out_of_memory"
    assert f"{wanted.total / 2**30:.1f} GiB" in message
    assert f"{wanted.total / 2**31:.1f} GiB are there" in message
    assert "token_budget" in message
    assert "LoRA" in message


def test_there_is_some_memory_here() -> None:
    assert 2**26 < available() < 2**50


def test_a_run_is_refused_before_its_first_step(
    model: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2.0**20)
    rows = [Supervised(1, (Message("user", "Why?"), Message("assistant", "So. " * 50)))]
    with pytest.raises(InvalidInput, match="Lower token_budget") as caught:
        run(METHODS["sft"], model, rows, {}, tmp_path)
    assert caught.value.code == "out_of_memory"
    assert not (tmp_path / "checkpoints").exists()
