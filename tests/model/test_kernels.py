"""The C forward pass: near the exact one, the same bits in any company, and absent without harm."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.model.families import FAMILIES, random_reference, tiny_decoder
from tutee.model import compiled
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.kv_cache import KVCache, TiledCache
from tutee.model.layout import Adapters, Layout
from tutee.model.lora import Lora
from tutee.model.matrix_unit import library

BLOCKS = 24
TABLES = [[5, 9, 2, 16, 12, 7], [17, 3, 11], [1], [8, 20, 4, 13]]
LENGTHS = [190, 33, 1, 100]  # the C code takes 64 keys at a time
needs_unit = pytest.mark.skipif(library() is None, reason="this processor has no matrix unit, or there is no compiler")


def tokens_of(config: DecoderConfig) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, config.vocab_size, (length,), generator=generator) for length in LENGTHS]


def decoder_of(family: str, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    decoder = Decoder(DecoderConfig.from_hf(FAMILIES[family].to_dict()), dtype)
    state = random_reference(family).state_dict()
    if decoder.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    decoder.load_state_dict(state)
    return decoder


def adapter_of(config: DecoderConfig, seed: int) -> Lora:
    lora = Lora(config, seed=seed).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for b in lora.B.values():
        b.normal_(0, 0.05, generator=generator)
    return lora


def feed(
    decoder: Decoder, cache: KVCache, which: list[int], takes: list[list[int]], loras: dict[int, Lora] | None = None
) -> dict[int, Tensor]:
    """Hidden states of sequences fed in steps: in step i `takes[i][j]` tokens of sequence `which[j]`."""
    done = dict.fromkeys(which, 0)
    out: dict[int, list[Tensor]] = {b: [] for b in which}
    tokens = tokens_of(decoder.config)
    for take in takes:
        starts, ids, adapters = [0], [], []
        for b, count in zip(which, take, strict=True):
            ids.append(tokens[b][done[b] : done[b] + count])
            done[b] += count
            starts.append(starts[-1] + count)
            if loras and b in loras:
                adapters.append((loras[b], slice(starts[-2], starts[-1])))
        layout = Layout.cached(
            cache, starts, [TABLES[b] for b in which], [done[b] for b in which], adapters=tuple(adapters)
        )
        with torch.no_grad():
            hidden_TD = decoder(torch.cat(ids), layout.positions, layout)
        for i, b in enumerate(which):
            out[b].append(hidden_TD[starts[i] : starts[i + 1]])
    return {b: torch.cat(parts) for b, parts in out.items()}


def whole(which: list[int]) -> list[list[int]]:
    return [[LENGTHS[b] for b in which]]


@needs_unit
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_nearer_to_float32_than_pytorchs_bfloat16(family: str, adapted: bool) -> None:
    decoder, exact = decoder_of(family), decoder_of(family, torch.float32)
    config = decoder.config
    loras = {0: adapter_of(config, 1), 3: adapter_of(config, 2)} if adapted else {}
    everyone = [0, 1, 2, 3]
    takes = [[180, 20, 1, 99]]
    caches = (
        TiledCache(config, BLOCKS),
        KVCache(config, BLOCKS, 32),
        KVCache(config, BLOCKS, 32, dtype=torch.float32),
    )
    ours, torchs, wanted = (
        feed(net, cache, everyone, takes, loras) for net, cache in zip((decoder, decoder, exact), caches, strict=True)
    )
    for b in everyone:
        error = (ours[b] - wanted[b]).square().mean().sqrt()
        allowed = (torchs[b] - wanted[b]).square().mean().sqrt()
        assert error < 1.3 * allowed + 1e-3
        assert error < 0.1 * wanted[b].square().mean().sqrt()


@needs_unit
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rows_bits_do_not_depend_on_company_pieces_or_threads(family: str) -> None:
    decoder = decoder_of(family)
    loras = {0: adapter_of(decoder.config, 1), 3: adapter_of(decoder.config, 2)}
    which = [0, 1, 3]

    def run(sequences: list[int], takes: list[list[int]], threads: int = 1) -> dict[int, Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return feed(decoder, TiledCache(decoder.config, BLOCKS), sequences, takes, loras)
        finally:
            torch.set_num_threads(before)

    together = run(which, whole(which))
    for b in which:
        assert torch.equal(together[b], run([b], whole([b]))[b])
    pieces = run(which, [[17, 1, 5], [1, 20, 1], *[[1, 1, 1]] * 3, [50, 8, 61], [119, 1, 30]])
    threaded = run(which, whole(which), threads=3)
    for b in which:
        assert torch.equal(together[b], pieces[b])
        assert torch.equal(together[b], threaded[b])


@needs_unit
@pytest.mark.parametrize("width", [40, 48])  # 40: rows end within a vector
def test_an_adapter_that_is_not_finite_spoils_its_own_rows_only(width: int) -> None:
    decoder = tiny_decoder(torch.bfloat16, hidden_size=width)
    bad = adapter_of(decoder.config, 1)
    for b in bad.B.values():
        b.fill_(float("nan"))
    clean = feed(decoder, TiledCache(decoder.config, BLOCKS), [0, 1], whole([0, 1]))
    mixed = feed(decoder, TiledCache(decoder.config, BLOCKS), [0, 1], whole([0, 1]), {0: bad})
    assert not mixed[0].isfinite().any()
    assert torch.equal(mixed[1], clean[1])
    after = feed(decoder, TiledCache(decoder.config, BLOCKS), [0, 1], whole([0, 1]))
    assert torch.equal(after[0], clean[0])


@needs_unit
def test_changed_weights_and_adapters_are_packed_again() -> None:
    decoder, other = decoder_of("qwen2"), decoder_of("qwen2")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    lora, twice = adapter_of(decoder.config, 1), adapter_of(decoder.config, 1).scaled(2.0)

    def run(net: Decoder, adapter: Lora) -> Tensor:
        return feed(net, TiledCache(net.config, BLOCKS), [0], whole([0]), {0: adapter})[0]

    before = run(decoder, lora)
    decoder.load_state_dict(other.state_dict())
    lora.load_state_dict(twice.state_dict())
    assert not torch.equal(run(decoder, lora), before)
    assert torch.equal(run(decoder, lora), run(other, twice))


@needs_unit
def test_what_c_writes_pytorch_reads() -> None:
    decoder = decoder_of("mistral")
    tiled, plain = TiledCache(decoder.config, BLOCKS), KVCache(decoder.config, BLOCKS, 32)
    for cache in (tiled, plain):
        feed(decoder, cache, [0], whole([0]))
    for got, wanted in zip(
        tiled.read(0, torch.tensor([TABLES[0]])), plain.read(0, torch.tensor([TABLES[0]])), strict=True
    ):
        assert (got[:, : LENGTHS[0]] - wanted[:, : LENGTHS[0]]).abs().max() <= 0.02 * wanted.abs().max()


@needs_unit
def test_rows_of_an_adapter_are_a_slice() -> None:
    decoder = decoder_of("llama")
    cache = TiledCache(decoder.config, BLOCKS)
    adapters: Adapters = ((adapter_of(decoder.config, 1), torch.tensor([0, 2])),)
    layout = Layout.cached(cache, [0, 3], [[1]], [3], adapters=adapters)
    with pytest.raises(ValueError, match="slice"):
        decoder(torch.tensor([1, 2, 3]), layout.positions, layout)


@needs_unit
@pytest.mark.parametrize("rows", [1, 16, 17, 70])
def test_logits_are_exact_enough_and_independent(rows: int) -> None:
    decoder = tiny_decoder(torch.bfloat16, hidden_size=72, head_dim=12)
    hidden_TD = torch.randn(rows, 72, generator=torch.Generator().manual_seed(rows)) * 3
    hidden_TD[:, 5] *= 20  # models have a few hidden numbers that dwarf the rest
    with torch.no_grad():
        logits_TV = decoder.logits(hidden_TD)
        exact_TV = hidden_TD.double() @ decoder.head_weight.double().T
        assert (logits_TV - exact_TV).abs().max() < 1e-4 * exact_TV.abs().max()
        assert torch.equal(decoder.logits(hidden_TD[-1:]), logits_TV[-1:])
        decoder.head_weight.mul_(4.0)  # a power of four, so that nothing is rounded differently
        assert torch.equal(decoder.logits(hidden_TD), 4 * logits_TV)


@needs_unit
@pytest.mark.model
def test_logits_of_the_default_model(default_model: Path) -> None:
    from tutee.model.pretrained import load_pretrained

    model = load_pretrained(default_model)
    ids = torch.tensor(model.tokenizer.encode("The capital of France is Paris. Once upon a time, there was a small"))
    layout = Layout.packed([len(ids)])
    with torch.no_grad():
        hidden_TD = model.decoder(ids, layout.positions, layout)
        exact_TV = hidden_TD.double() @ model.decoder.head_weight.double().T
        assert (model.decoder.logits(hidden_TD) - exact_TV).abs().max() < 3e-3


def test_switched_off_there_is_no_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTEE_KERNELS", "off")
    assert compiled.load.__wrapped__("kernels.c") is None


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_it_says_so(
    compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TUTEE_KERNELS", raising=False)
    with caplog.at_level(logging.WARNING):
        assert compiled.load.__wrapped__("kernels.c") is None
    assert "PyTorch" in caplog.text


@needs_unit
def test_threads_that_compile_at_once_all_get_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TUTEE_KERNELS", raising=False)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(compiled.load.__wrapped__, ["adamw.c"] * 4))
    assert len(list((tmp_path / "tutee").iterdir())) == 1


def test_a_user_without_a_home_has_no_c(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "TUTEE_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with caplog.at_level(logging.WARNING):
        assert compiled.load.__wrapped__("adamw.c") is None
    assert "PyTorch" in caplog.text


def test_a_tiled_cache_has_whole_tiles() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        TiledCache(tiny_decoder().config, 4, 8)
