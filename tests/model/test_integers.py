"""Weights as integers: what they stand for, the C code against PyTorch, and the same bits in any company."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.model.families import FAMILIES
from tests.model.test_kernels import BLOCKS, adapter_of, decoder_of, feed, needs_unit, whole
from tutee.errors import InvalidInput
from tutee.model.decoder import Decoder
from tutee.model.integers import Precision, check_precision, tiles, to_integers
from tutee.model.kv_cache import KVCache, TiledCache
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.matmul import Projection
from tutee.model.served import Served

INTEGERS: tuple[Precision, ...] = ("int8", "int4")
EVERYONE = [0, 1, 2, 3]


class InC(Decoder):
    """A decoder whose pass over a cache runs in integers."""

    def __init__(self, decoder: Decoder, precision: Precision) -> None:
        self.__dict__ = decoder.__dict__
        self._integers = decoder.packed(precision)

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, layout: Layout) -> Tensor:
        return self._integers.forward(tokens_T, positions_T, layout)


def rounded(family: str, precision: Precision) -> Decoder:
    """The exact decoder of what the integers stand for."""
    decoder = decoder_of(family, torch.float32)
    with torch.no_grad():
        for module in decoder.modules():
            if isinstance(module, Projection):
                module.weight.copy_(to_integers(module.weight.bfloat16(), precision).floats())
    return decoder


def distance(left: dict[int, Tensor], right: dict[int, Tensor]) -> float:
    """Root mean square of the differences."""
    return float(torch.cat([left[b] - right[b] for b in left]).square().mean().sqrt())


def matrix(rows: int = 64, width: int = 80) -> Tensor:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    weight[5] *= 100.0
    weight[7, :32] += 40.0  # a group far from zero
    return weight


def test_eight_bits_are_the_nearest_of_255_values_a_row() -> None:
    weight = matrix()
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((to_integers(weight, "int8").floats() - weight).abs() <= step * 0.501).all()


def test_four_bits_are_levels_of_32_neighbours_and_stay_within_a_byte() -> None:
    weight = matrix(width=96)
    integers = to_integers(weight, "int4")
    assert integers.levels_OI.max() == 15
    assert integers.values().min() >= -128
    assert integers.values().max() <= 127
    groups = weight.view(-1, 3, 32)
    error = (integers.floats() - weight).view(-1, 3, 32).square().mean(2).sqrt()
    reach = groups.amax(2) - groups.amin(2)
    byte = weight.abs().amax(1, keepdim=True) / 127
    assert (error <= reach / 15 * 0.35 + byte * 0.5).all()  # evenly spread errors would be .29 of a level
    assert len(torch.unique(integers.levels_OI[0, :32])) <= 16


def test_rows_are_rounded_on_their_own() -> None:
    weight = matrix()
    for precision in INTEGERS:
        assert torch.equal(to_integers(weight[5:9], precision).floats(), to_integers(weight, precision).floats()[5:9])


@pytest.mark.parametrize("precision", INTEGERS)
def test_tiles_hold_every_integer_where_the_c_code_looks(precision: Precision) -> None:
    integers = to_integers(matrix(), precision)
    raw, values = tiles(integers), integers.values()
    steps, pair = 2, 2048 if precision == "int8" else 1152
    assert raw.numel() == len(values) // 32 * steps * pair
    for o, i in ((0, 0), (5, 17), (18, 33), (41, 79), (63, 64)):
        tile = raw[(o // 32 * steps + i // 64) * pair + o % 32 // 16 * pair // 2 :].int()
        quad, place = i % 64 // 4, o % 16 * 4 + i % 4
        if precision == "int8":
            value = tile[quad * 64 + place]
        else:
            half = quad // 8
            level = tile[64 + quad % 8 * 64 + place] >> 4 * half & 15
            value = tile[32 * half + o % 16] * level - tile[32 * half + 16 + o % 16]
        assert (int(value) + 128) % 256 - 128 == int(values[o, i])


@needs_unit
@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_c_multiplies_what_the_integers_stand_for(family: str, precision: Precision) -> None:
    ours, exact = InC(decoder_of(family), precision), rounded(family, precision)
    config = exact.config
    loras = {0: adapter_of(config, 1), 3: adapter_of(config, 2)}
    takes = [[180, 20, 1, 99]]
    got = feed(ours, TiledCache(config, BLOCKS), EVERYONE, takes, loras)
    wanted = feed(exact, KVCache(config, BLOCKS, 32, dtype=torch.float32), EVERYONE, takes, loras)
    plain = feed(decoder_of(family), TiledCache(config, BLOCKS), EVERYONE, takes, loras)
    whole_model = feed(
        decoder_of(family, torch.float32), KVCache(config, BLOCKS, 32, dtype=torch.float32), EVERYONE, takes, loras
    )
    error, allowed = distance(got, wanted), distance(plain, whole_model)
    assert error < 1.2 * allowed  # bfloat16's own error has the rounding of its weights in it besides


@needs_unit
@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("family", ["llama-tied-bias", "mistral-window", "qwen3"])
def test_a_rows_bits_do_not_depend_on_company_pieces_or_threads(family: str, precision: Precision) -> None:
    decoder = InC(decoder_of(family), precision)
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
    pieces = run(which, [[17, 1, 5], [1, 20, 1], *[[1, 1, 1]] * 3, [50, 8, 61], [119, 1, 30]])
    threaded = run(which, whole(which), threads=3)
    for b in which:
        assert torch.equal(together[b], run([b], whole([b]))[b])
        assert torch.equal(together[b], pieces[b])
        assert torch.equal(together[b], threaded[b])


@needs_unit
@pytest.mark.parametrize("precision", INTEGERS)
def test_numbers_that_are_not_finite_spoil_their_own_rows_only(precision: Precision) -> None:
    decoder = InC(decoder_of("llama"), precision)
    bad: Lora = adapter_of(decoder.config, 1)
    for b in bad.B.values():
        b.fill_(float("nan"))
    clean = feed(decoder, TiledCache(decoder.config, BLOCKS), [0, 1], whole([0, 1]))
    mixed = feed(decoder, TiledCache(decoder.config, BLOCKS), [0, 1], whole([0, 1]), {0: bad})
    assert not mixed[0].isfinite().any()
    assert torch.equal(mixed[1], clean[1])


@needs_unit
@pytest.mark.parametrize("precision", INTEGERS)
def test_pytorch_in_its_place_gives_the_same_within_rounding_and_follows_changed_weights(precision: Precision) -> None:
    decoder = decoder_of("llama-tied-bias")
    before = {name: parameter.clone() for name, parameter in decoder.named_parameters()}
    in_c = Served(decoder, precision, BLOCKS, 32)
    in_torch = Served(decoder, precision, 2 * BLOCKS, 8)  # blocks of 8 are no tiles
    assert (in_c.native, in_torch.native) == (True, False)

    def run(served: Served) -> Tensor:
        tokens, size = torch.arange(20), served.cache.block_size
        layout = Layout.cached(served.cache, [0, 20], [list(range(1, 2 + 20 // size))], [20])
        with torch.no_grad():
            return served.logits(served.forward(tokens, layout))

    first = run(in_c)
    spread = first.std()
    assert (run(in_torch) - first).abs().max() < 0.05 * spread
    assert all(torch.equal(parameter, before[name]) for name, parameter in decoder.named_parameters())
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(0.9)
    second = run(in_c)
    assert (second - first).abs().max() > 0.05 * spread
    assert (run(in_torch) - second).abs().max() < 0.05 * spread


@pytest.mark.parametrize(
    ("name", "dtype"), [("int2", torch.bfloat16), ("int8", torch.float32), ("float32", torch.float32)]
)
def test_a_precision_that_cannot_be_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(InvalidInput, match="precision"):
        check_precision(name, dtype)
    assert check_precision("", dtype) == "bfloat16"
