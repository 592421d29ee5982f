"""The decode step that CUDA graphs record, against the decoder itself, in Triton's interpreter (no GPU needed)."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it comes with PyTorch's CUDA builds)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run the kernels without a GPU", allow_module_level=True)

from tutee.engine.cuda_graphs import DecodeStep
from tutee.engine.request import Request, SamplingParams
from tutee.engine.sampler import SamplerState
from tutee.engine.scheduler import Scheduled
from tutee.engine.sequence import Sequence, Version
from tutee.engine.text import TextStream
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.kv_cache import KVCache
from tutee.model.layout import Layout
from tutee.model.lora import Lora, LoraConfig

LLAMA = DecoderConfig(
    model_type="llama",
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    tie_word_embeddings=True,
    eos_token_ids=(1,),
)
CONFIGS = {
    "llama": LLAMA,
    "qwen2": replace(LLAMA, model_type="qwen2", attention_bias=True),
    "qwen3": replace(LLAMA, model_type="qwen3", qk_norm=True),
    "mistral": replace(LLAMA, model_type="mistral", sliding_window=24),
}
BLOCK = 16


def item(tokens: list[int], blocks: list[int], lora: Lora | None) -> Scheduled:
    params = SamplingParams(max_tokens=4)
    sequence = Sequence(
        request=Request(tuple(tokens), params, version="v", priority=0, owner=None, on_chunk=None),
        version=Version("v", lora, 0),
        sampler=SamplerState(params, 0),
        text=TextStream(None, ()),  # type: ignore[arg-type]
        arrival=0,
        stop_ids=frozenset(),
        max_length=256,
        tokens=tokens,
        prompt_length=len(tokens),
    )
    sequence.blocks, sequence.computed = blocks, len(tokens) - 1
    return Scheduled(sequence, 1)


def adapter(config: DecoderConfig, seed: int, rank: int) -> Lora:
    lora = Lora(config, LoraConfig(rank=rank), seed=seed).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for b in lora.B.values():
        b.copy_(torch.empty(b.shape).normal_(0, 0.1, generator=generator))
    return lora


def prefill(decoder: Decoder, cache: KVCache, items: Seq[Scheduled]) -> None:
    for one in items:
        tokens, lora = one.sequence.tokens[:-1], one.sequence.version.lora
        adapters = () if lora is None else ((lora, slice(0, len(tokens))),)
        layout = Layout.cached(cache, [0, len(tokens)], [one.sequence.blocks], [len(tokens)], adapters=adapters)
        decoder(torch.tensor(tokens), layout.positions, layout)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("adapted", [False, True])
@torch.no_grad()
def test_step_is_the_decoders_own(name: str, adapted: bool) -> None:
    config = CONFIGS[name]
    decoder = Decoder(config).initialise(3, 0.1)
    loras = [adapter(config, 1, 4), adapter(config, 2, 8)] if adapted else [None, None]
    generator = torch.Generator().manual_seed(0)
    items, free = [], 1
    for number, length in enumerate((2, 17, 40, 33)):
        count = -(-length // BLOCK)
        tokens = torch.randint(2, 97, (length,), generator=generator).tolist()
        items.append(item(tokens, list(range(free, free + count)), [None, *loras][number % 3]))
        free += count
    expected = []
    cache = KVCache(config, free, BLOCK, torch.float32)
    prefill(decoder, cache, items)
    for one in items:
        length, lora = len(one.sequence.tokens), one.sequence.version.lora
        adapters = () if lora is None else ((lora, slice(0, 1)),)
        layout = Layout.cached(cache, [0, 1], [one.sequence.blocks], [length], adapters=adapters)
        expected.append(decoder(torch.tensor(one.sequence.tokens[-1:]), layout.positions, layout))
    cache = KVCache(config, free, BLOCK, torch.float32)
    prefill(decoder, cache, items)
    step = DecodeStep(decoder, cache, rows=8)
    assert step.send(items) is adapted
    torch.testing.assert_close(step.hidden(8, adapted)[: len(items)], torch.cat(expected), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rows_that_share_a_prefix_may_name_more_blocks_than_there_are() -> None:
    decoder = Decoder(LLAMA).initialise(3, 0.1)
    cache = KVCache(LLAMA, 4, BLOCK, torch.float32)
    items = [item(list(range(2, 42)), [1, 2, 3], None) for _ in range(8)]
    prefill(decoder, cache, items[:1])
    step = DecodeStep(decoder, cache, rows=8)
    step.send(items)
    hidden_TD = step.hidden(8, adapted=False)
    torch.testing.assert_close(hidden_TD, hidden_TD[:1].expand_as(hidden_TD))
