"""A tiny random Llama over single bytes, exact (float32), and engines over it that the test steps itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.families import default_model_folder
from tutee.engine.engine import Engine
from tutee.model.config import DecoderConfig
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.tokenizer import Tokenizer

END = 257
VOCABULARY = 258


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Pretrained:
    return load_pretrained(tiny_folder, "float32")


@pytest.fixture(scope="session")
def tokenizer(tiny: Pretrained) -> Tokenizer:
    """One token a byte, in the order of GPT-2's byte alphabet."""
    return tiny.tokenizer


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return default_model_folder(tmp_path_factory)


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
    """Engines without a thread, closed and checked for leftovers at the end."""
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
        assert engine._door.waiting == 0
        assert not engine.busy
        assert not engine._stepper.scheduler._shares._present


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
