"""Trains a small model for two steps and prints {"measured": peak growth in bytes, "estimated": bytes}.

    python -m tests.train.peak_memory full|lora float32|bfloat16 TOKENS LONGEST

A process of its own, because a process's peak never falls.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from tests.train.tiny_training import tiny_model
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.train.batch import Example, Group, pack_groups, totals
from tutee.train.memory import estimate
from tutee.train.sft import token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

SHAPE = DecoderConfig(
    model_type="llama",
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    eos_token_ids=(256,),
)


def peak() -> int:
    # Not getrusage's maximum: that begins at the parent's size, and a test run that comes here late is large.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def step(trainer: Trainer, tokens: int, long: int) -> None:
    rows = [Group((Example(tuple(range(i, i + long)), (0.0, *[1.0] * (long - 1))),)) for i in range(tokens // long)]
    trainer.forward_backward(pack_groups(rows), token_mean_loss, totals(rows))
    trainer.optim_step(1e-3)


def main(full: bool, dtype: torch.dtype, tokens: int, longest: int) -> None:
    torch.set_num_threads(1)
    model = tiny_model(dtype)
    step(Trainer(model, TrainerConfig(full=full)), 128, 128)  # what PyTorch itself takes at its first step
    before = peak()
    model.config = SHAPE
    model.decoder = Decoder(SHAPE, dtype).initialise()
    config = TrainerConfig(full=full)
    trainer = Trainer(model, config)
    for _ in range(2):
        step(trainer, tokens, longest)
    wanted = estimate(SHAPE, config, dtype, tokens, longest)
    print(json.dumps({"measured": peak() - before, "estimated": wanted.total, "parts": wanted.parts}))


if __name__ == "__main__":
    main(sys.argv[1] == "full", getattr(torch, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
