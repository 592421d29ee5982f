"""A tiny random Llama over single bytes, exact (float32), and engines over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders as raw_decoders

from tutee.engine.engine import Engine
from tutee.model.chat_format import ChatFormat
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import Pretrained
from tutee.model.tokenizer import Tokenizer

END = 256
VOCABULARY = 257
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Token id = byte, in the order of GPT-2's byte alphabet, and one end token."""
    folder: Path = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = raw_decoders.ByteLevel()
    raw.add_special_tokens([AddedToken("<|end|>", special=True)])
    raw.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "pad_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(folder)


@pytest.fixture(scope="session")
def tiny(tokenizer: Tokenizer) -> Pretrained:
    config = DecoderConfig(
        model_type="llama",
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        eos_token_ids=(END,),
    )
    decoder = Decoder(config, torch.float32)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.25, generator=generator)
    chat_format = ChatFormat(TEMPLATE, tokenizer, (END,))
    return Pretrained("tiny", Path("tiny"), config, decoder, tokenizer, chat_format, "0" * 64, torch.float32)


def random_lora(config: DecoderConfig, seed: int) -> Lora:
    """An adapter that changes a lot (a fresh one has B = 0 and changes nothing)."""
    lora = Lora(config, LoraConfig(rank=4, alpha=8.0), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return lora


@pytest.fixture
def make_engine(tiny: Pretrained) -> Iterator[Callable[..., Engine]]:
    """Engines without a thread (the test steps them), closed and checked for leftovers at the end."""
    engines: list[Engine] = []

    def make(**settings: Any) -> Engine:
        defaults = {"max_batch": 8, "cache_tokens": 2048, "block_size": 4, "autostart": False}
        engines.append(Engine(settings.pop("model", tiny), **defaults | settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
        stats = engine.stats
        assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)


@pytest.fixture
def prompts() -> list[list[int]]:
    """Eight prompts of 1 to 41 tokens, some with a common beginning."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randint(0, 256, (9,), generator=generator).tolist()
    lengths = (1, 3, 4, 5, 8, 17, 31, 32)
    return [
        (common if i % 2 else []) + torch.randint(0, 256, (length,), generator=generator).tolist()
        for i, length in enumerate(lengths)
    ]
