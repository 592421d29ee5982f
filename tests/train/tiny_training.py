"""A tiny random Llama over bytes, data for it, and one deterministic run of 10 steps.

Run as a script, it trains in FOLDER and kills itself with SIGKILL after step N:  python tiny_training.py FOLDER N
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders as raw_decoders

from tutee.model.chat_format import ChatFormat
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.pretrained import Pretrained
from tutee.model.tokenizer import Tokenizer
from tutee.train.batch import Example, Group
from tutee.train.loop import LoopConfig, LoopResult, train
from tutee.train.progress import Progress, Report, silent
from tutee.train.sft import token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LOOP = LoopConfig(epochs=2, batch_size=4, learning_rate=1e-2, checkpoint_every=1, seed=3)


def byte_tokenizer(folder: Path) -> Tokenizer:
    """Token id = byte in the order of GPT-2's alphabet, and one end token, 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = raw_decoders.ByteLevel()
    raw.add_special_tokens([AddedToken("<|end|>", special=True)])
    raw.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "pad_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(folder)


def tiny_model(dtype: torch.dtype = torch.float32, context: int = 256) -> Pretrained:
    config = DecoderConfig(
        model_type="llama",
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        eos_token_ids=(256,),
    )
    decoder = Decoder(config, dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = byte_tokenizer(Path(folder))
    chat_format = ChatFormat(TEMPLATE, tokenizer, (256,))
    return Pretrained("tiny", Path("tiny"), config, decoder, tokenizer, chat_format, "0" * 64, dtype)


def examples(count: int, seed: int = 0, reference: float | None = None) -> list[Example]:
    """Sequences of 6 to 30 tokens whose second half is learned."""
    dice = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        length = int(dice.integers(6, 30))
        mask = tuple(float(t >= length // 2) for t in range(length))
        tokens = tuple(int(token) for token in dice.integers(0, 256, length))
        out.append(Example(tokens, mask, None if reference is None else tuple([reference] * length)))
    return out


def singles(count: int, seed: int = 0) -> list[Group]:
    return [Group((example,)) for example in examples(count, seed)]


def ten_steps(folder: Path, report: Report = silent) -> tuple[Trainer, LoopResult]:
    """20 examples, batches of 4, 2 epochs: 10 steps, a checkpoint after each."""
    trainer = Trainer(tiny_model(), TrainerConfig(rank=4))
    return trainer, train(trainer, singles(20), token_mean_loss, LOOP, folder, report=report)


if __name__ == "__main__":
    torch.set_num_threads(1)
    last = int(sys.argv[2])

    def die_after(progress: Progress) -> None:
        # The report of step N comes before its checkpoint, so step N itself is lost, as in a real crash.
        if progress.step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    ten_steps(Path(sys.argv[1]), die_after)
