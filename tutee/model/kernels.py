"""The forward pass over a paged cache in C for matrix units (`kernels.c`): bfloat16 on the CPU.

Knows how weights are laid out for the C code, when such a copy is out of date, and how a step is described to it. Does
not know the network's modules (they hand over `BlockWeights`) nor requests. Where the processor has no matrix unit, or
there is no C compiler, `available` says no and everything runs in PyTorch.

Axes: T tokens, D hidden, H query heads, G kv heads, K head dim, O outputs, r ranks of an adapter side by side.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
import weakref
from collections.abc import Sequence
from ctypes import Structure, c_double, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutee.model.compiled import cpu_flags, load
from tutee.model.config import DecoderConfig
from tutee.model.kv_cache import TiledCache
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.matmul import Projection

_log = logging.getLogger(__name__)
NEEDED = frozenset({"amx_tile", "amx_bf16", "amx_int8", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"})
MAX_HEAD = 256
ROWS = 16
"""Rows of a tile: heads that share a key, and the cache's block, must fit it."""
STEP = 2048
"""Bytes of a pair of tiles."""
MATRICES = ("qkv", "out", "glu", "down")


class _Matrix(Structure):
    _fields_ = (("tiles", c_void_p), ("bias", c_void_p), ("pairs", c_int64), ("steps", c_int64))


class _Adapter(Structure):
    _fields_ = (("a", _Matrix), ("b", _Matrix))


class _Layer(Structure):
    _fields_ = (
        ("matrix", _Matrix * len(MATRICES)),
        *((name, c_void_p) for name in ("norm_in", "norm_mid", "q_norm", "k_norm")),
    )


class _Model(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "width", "heads", "groups", "head", "inner", "window")),
        ("eps", c_double),
        *((name, c_void_p) for name in ("embedding", "cos", "sin", "norm", "layer")),
    )


class _Span(Structure):
    _fields_ = (("begin", c_int64), ("end", c_int64), ("adapter", c_void_p))


class _Step(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("tokens", "sequences", "spans", "table_width", "block_size", "threads")),
        *((name, c_void_p) for name in ("ids", "positions", "slots", "starts", "contexts", "tables", "span")),
        *((name, c_void_p) for name in ("keys", "values", "hidden", "finite", "workspace")),
        *((name, c_int64) for name in ("cap_tokens", "cap_rank", "cap_context", "cap_threads")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled C code, or None on a machine that cannot run it."""
    if not cpu_flags() >= NEEDED:
        return None
    lib = load("kernels.c")
    if lib is None:
        return None
    lib.reserve.restype = c_void_p
    lib.workspace_bytes.restype = lib.sampling_bytes.restype = c_int64
    if lib.prepare() != 0:
        _log.warning("The system does not lend the matrix unit: PyTorch computes instead, slower")
        return None
    return lib


def available(config: DecoderConfig) -> bool:
    """Whether a decoder of this shape can run here."""
    shares = config.num_attention_heads // config.num_key_value_heads
    return shares <= ROWS and config.head_dim <= MAX_HEAD and library() is not None


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """The parameters of one block, under its name (`model.layers.0`)."""

    name: str
    q: Projection
    k: Projection
    v: Projection
    out: Projection
    gate: Projection
    up: Projection
    down: Projection
    norm_in: Tensor
    norm_mid: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None

    @property
    def projections(self) -> dict[str, tuple[Projection, ...]]:
        """Those that are multiplied together, by the names of `MATRICES`."""
        return {
            "qkv": (self.q, self.k, self.v),
            "out": (self.out,),
            "glu": (self.gate, self.up),
            "down": (self.down,),
        }

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The same by module name, as adapters know them."""
        attention, mlp = f"{self.name}.self_attn", f"{self.name}.mlp"
        return {
            "qkv": (f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            "out": (f"{attention}.o_proj",),
            "glu": (f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            "down": (f"{mlp}.down_proj",),
        }


class Tiles:
    """Memory for packed weights, on large pages where the system has them."""

    def __init__(self, size: int) -> None:
        lib = library()
        assert lib is not None
        self.address: int | None = lib.reserve(c_int64(size))
        if self.address is None:
            raise MemoryError(f"no memory for {size} bytes of weights")
        weakref.finalize(self, lib.release, c_void_p(self.address), c_int64(size))


class _Shape:
    """How outputs of the four matrices are cut into tiles."""

    def __init__(self, config: DecoderConfig) -> None:
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.head, self.head_tiles = config.head_dim, 2 * -(-config.head_dim // 32)
        self.inner_tiles = -(-config.intermediate_size // ROWS)
        self.width = config.hidden_size
        self.width_tiles = 2 * -(-config.hidden_size // 32)
        self.pairs = {
            "qkv": heads * self.head_tiles // 2,
            "out": self.width_tiles // 2,
            "glu": self.inner_tiles,
            "down": self.width_tiles // 2,
        }

    def pack(self, which: str, tiles: int, steps: int, weights: Sequence[Tensor]) -> None:
        """Write matrices [O, width], bfloat16, one beside the other, as the tiles of one."""
        begin = 0
        for i, weight in enumerate(weights):
            if which == "qkv":
                first, stride, group, group_tiles = begin, 1, self.head, self.head_tiles
                begin += len(weight) // self.head * self.head_tiles
            elif which == "glu":  # a gate's tile and its partner's make a pair
                first, stride, group, group_tiles = i, 2, len(weight), self.inner_tiles
            else:
                first, stride, group, group_tiles = 0, 1, len(weight), self.width_tiles
            _pack(tiles, steps, first, stride, weight, group, group_tiles)

    def bias(self, which: str, projections: Sequence[Projection]) -> Tensor | None:
        """float32, in the order of the tiles."""
        biases = [p.bias for p in projections]
        if all(bias is None for bias in biases):
            return None
        group, padded = (self.head, self.head_tiles * ROWS) if which == "qkv" else (self.width, self.width_tiles * ROWS)
        whole = torch.cat([torch.zeros(len(p.weight)) if p.bias is None else p.bias.float() for p in projections])
        return nn.functional.pad(whole.view(-1, group), (0, padded - group)).flatten().contiguous()


def _pack(tiles: int, steps: int, first: int, stride: int, weight: Tensor, group: int, group_tiles: int) -> None:
    lib = library()
    assert lib is not None
    weight = weight.detach().to(torch.bfloat16).contiguous()
    rows, width = weight.shape
    numbers = (steps, first, stride)
    lib.pack(
        c_void_p(tiles),
        *(c_int64(n) for n in numbers),
        c_void_p(weight.data_ptr()),
        *(c_int64(n) for n in (rows, width, group, group_tiles)),
    )


def _steps(width: int) -> int:
    return -(-width // 32)


def _stamp(parameters: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple([p._version for p in parameters] + [p.data_ptr() for p in parameters])


class PackedAdapter:
    """An adapter's matrices for the C code, as they were when this was made."""

    def __init__(self, lora: Lora, blocks: Sequence[BlockWeights], shape: _Shape) -> None:
        self.parameters = list(lora.parameters())
        self.stamp = _stamp(self.parameters)
        found = []
        for block in blocks:
            for which, names in block.names.items():
                widths = tuple(len(p.weight) for p in block.projections[which])
                with torch.no_grad():
                    found.append((which, widths, lora.matrices(names, widths, torch.bfloat16)))
        self.structures = (_Adapter * len(found))()
        self.rank = 0
        sizes = [
            (0, 0)
            if pair is None
            else (2 * -(-len(pair[0]) // 32) // 2 * _steps(pair[0].shape[1]), shape.pairs[which] * _steps(len(pair[0])))
            for which, _, pair in found
        ]
        self._tiles = Tiles(max(STEP, STEP * sum(a + b for a, b in sizes)))
        at = self._tiles.address or 0
        for structure, (which, widths, pair), (a_steps, b_steps) in zip(self.structures, found, sizes, strict=True):
            if pair is None:
                continue
            a_rD, b_Or = pair
            ranks = -(-len(a_rD) // 32)
            self.rank = max(self.rank, 32 * ranks)
            structure.a = _Matrix(at, None, ranks, _steps(a_rD.shape[1]))
            _pack(at, _steps(a_rD.shape[1]), 0, 1, a_rD, len(a_rD), 2 * ranks)
            at += STEP * a_steps
            structure.b = _Matrix(at, None, shape.pairs[which], ranks)
            shape.pack(which, at, ranks, torch.split(b_Or, widths))
            at += STEP * b_steps
        self.address = ctypes.addressof(self.structures)


class NativeDecoder:
    """A decoder's weights packed for the C code, renewed when a parameter changes, and the forward pass over them."""

    def __init__(
        self,
        config: DecoderConfig,
        blocks: Sequence[BlockWeights],
        embedding: Tensor,
        norm: Tensor,
        rope: tuple[Tensor, Tensor],
    ) -> None:
        self._config = config
        self._blocks = list(blocks)
        self._shape = _Shape(config)
        self._rope = rope
        self._floats = [embedding, norm, *rope]
        norms = [x for b in self._blocks for x in (b.norm_in, b.norm_mid, b.q_norm, b.k_norm)]
        packed = [
            x for b in self._blocks for group in b.projections.values() for p in group for x in (p.weight, p.bias)
        ]
        self._parameters = [x for x in (*packed, *norms, *self._floats) if x is not None]
        self._stamp: tuple[int, ...] = ()
        self._adapters: weakref.WeakKeyDictionary[Lora, PackedAdapter] = weakref.WeakKeyDictionary()
        self._workspace = torch.zeros(0, dtype=torch.uint8)
        self._capacity = (0, 0, 0, 0)
        self._lock = threading.Lock()
        self._layers = (_Layer * len(self._blocks))()
        self._model = _Model(
            layers=len(self._blocks),
            width=config.hidden_size,
            heads=config.num_attention_heads,
            groups=config.num_key_value_heads,
            head=config.head_dim,
            inner=config.intermediate_size,
            window=config.sliding_window or 0,
            eps=config.rms_norm_eps,
            layer=ctypes.addressof(self._layers),
        )
        self._tiles: Tiles | None = None

    def forward(self, tokens_T: Tensor, positions_T: Tensor, layout: Layout) -> Tensor:
        """Hidden states after the final norm, float32 [T, D], without a gradient; writes the layout's cache.

        Raises:
            ValueError: an adapter's rows are not a slice.
        """
        lib = library()
        cache = layout.cache
        assert lib is not None
        assert isinstance(cache, TiledCache)
        assert layout.slots_T is not None
        assert layout.block_tables is not None
        with self._lock:
            self._renew()
            held = [tokens_T.contiguous(), positions_T.contiguous(), layout.slots_T.contiguous()]
            held += [
                torch.tensor(layout.starts),
                torch.tensor(layout.context_lengths),
                layout.block_tables.contiguous(),
            ]
            spans, rank = self._spans(layout)
            hidden_TD = torch.empty(len(tokens_T), self._config.hidden_size)
            finite_T = torch.empty(len(tokens_T), dtype=torch.bool)
            step = _Step(
                len(tokens_T),
                len(layout.context_lengths),
                len(spans),
                layout.block_tables.shape[1],
                cache.block_size,
                torch.get_num_threads(),
                *(tensor.data_ptr() for tensor in held),
                ctypes.addressof(spans),
                *cache.addresses,
                hidden_TD.data_ptr(),
                finite_T.data_ptr(),
            )
            self._make_room(lib, step, len(tokens_T), rank, max(layout.context_lengths))
            lib.forward(ctypes.byref(self._model), ctypes.byref(step))
        return hidden_TD

    def _spans(self, layout: Layout) -> tuple[ctypes.Array[_Span], int]:
        """All rows in order, each span with its adapter; the widest adapter's ranks."""
        spans: list[_Span] = []
        row = rank = 0
        tokens = layout.starts[-1]
        for lora, rows in sorted(layout.adapters, key=lambda item: _first(item[1])):
            begin, end, _ = rows.indices(tokens) if isinstance(rows, slice) else (0, 0, 0)
            adapter = self._adapter(lora)
            if begin > row:
                spans.append(_Span(row, begin, None))
            spans.append(_Span(begin, end, adapter.address))
            row, rank = end, max(rank, adapter.rank)
        if row < tokens:
            spans.append(_Span(row, tokens, None))
        return (_Span * len(spans))(*spans), rank

    def _adapter(self, lora: Lora) -> PackedAdapter:
        packed = self._adapters.get(lora)
        if packed is None or packed.stamp != _stamp(packed.parameters):
            packed = self._adapters[lora] = PackedAdapter(lora, self._blocks, self._shape)
        return packed

    def _make_room(self, lib: ctypes.CDLL, step: _Step, tokens: int, rank: int, context: int) -> None:
        needed = (-(-tokens // 64) * 64, rank, -(-context // 512) * 512, step.threads)
        grown = tuple(max(have, need) for have, need in zip(self._capacity, needed, strict=True))
        step.cap_tokens, step.cap_rank, step.cap_context, step.cap_threads = grown
        if grown != self._capacity:
            size = lib.workspace_bytes(ctypes.byref(self._model), ctypes.byref(step))
            self._workspace = torch.zeros(size + 4096, dtype=torch.uint8)
            self._capacity = grown
        step.workspace = -(-self._workspace.data_ptr() // 4096) * 4096

    def _renew(self) -> None:
        """Pack again if a weight changed since the last time."""
        stamp = _stamp(self._parameters)
        if stamp == self._stamp:
            return
        steps = {
            which: _steps(projections[0].weight.shape[1]) for which, projections in self._blocks[0].projections.items()
        }
        size = STEP * len(self._blocks) * sum(self._shape.pairs[which] * steps[which] for which in MATRICES)
        if self._tiles is None:
            self._tiles = Tiles(size + 8 * STEP)  # the C code fetches a little ahead
        at = self._tiles.address or 0
        self._kept: list[Tensor] = []
        for layer, block in zip(self._layers, self._blocks, strict=True):
            for i, which in enumerate(MATRICES):
                projections = block.projections[which]
                bias = self._shape.bias(which, projections)
                self._shape.pack(which, at, steps[which], [p.weight for p in projections])
                layer.matrix[i] = _Matrix(at, self._float(bias), self._shape.pairs[which], steps[which])
                at += STEP * self._shape.pairs[which] * steps[which]
            layer.norm_in, layer.norm_mid = self._float(block.norm_in), self._float(block.norm_mid)
            layer.q_norm, layer.k_norm = self._float(block.q_norm), self._float(block.k_norm)
        embedding, norm, cos, sin = (self._float(tensor) for tensor in self._floats)
        self._model.embedding, self._model.norm, self._model.cos, self._model.sin = embedding, norm, cos, sin
        self._stamp = stamp

    def _float(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _first(rows: slice | Tensor) -> int:
    if not isinstance(rows, slice):
        raise ValueError("an adapter's rows must be a slice here")
    return int(rows.start or 0)
