"""The forward pass over a paged cache in C for matrix units (`kernels.c`): bfloat16 on the CPU.

Knows how a decoder and a step are described to the C code, and when packed weights are out of date. Does not know the
network's modules (they hand over `BlockWeights`) nor requests. Where the processor has no matrix unit, or there is no C
compiler, `available` says no and everything runs in PyTorch.

A step writes keys and values, so it is one call for all layers; other Python threads run meanwhile.

Axes: T tokens, D hidden, r ranks of an adapter side by side.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import Structure, c_double, c_int64, c_void_p

import torch
from torch import Tensor

from tutee.model.config import DecoderConfig
from tutee.model.integers import BITS, DEPTH, PAIR_BYTES, Precision, tiles, to_integers
from tutee.model.kv_cache import TiledCache
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.matrix_unit import ROWS, Matrix, Tiles, library, stamp_of, zeros
from tutee.model.packing import MATRICES, BlockWeights, PackedAdapter, Shape

MAX_HEAD = 256


class _Layer(Structure):
    _fields_ = (
        ("matrix", Matrix * len(MATRICES)),
        *((name, c_void_p) for name in ("norm_in", "norm_mid", "q_norm", "k_norm")),
    )


class _Model(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "width", "heads", "groups", "head", "inner", "window", "bits")),
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
        *((name, c_int64) for name in ("cap_tokens", "cap_rank", "cap_threads")),
    )


def available(config: DecoderConfig) -> bool:
    """Whether a decoder of this shape can run here."""
    shares = config.num_attention_heads // config.num_key_value_heads
    return shares <= ROWS and config.head_dim <= MAX_HEAD and library() is not None


class NativeDecoder:
    """A decoder's weights packed for the C code, renewed when a parameter changes, and the forward pass over them."""

    def __init__(
        self,
        config: DecoderConfig,
        blocks: Sequence[BlockWeights],
        embedding: Tensor,
        norm: Tensor,
        rope: tuple[Tensor, Tensor],
        precision: Precision = "bfloat16",
    ) -> None:
        self._config = config
        self._precision = precision
        self._blocks = list(blocks)
        self._shape = Shape(config)
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
        self._capacity = (0, 0, 0)
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
            bits=BITS[precision],
            eps=config.rms_norm_eps,
            layer=ctypes.addressof(self._layers),
        )
        self._tiles: Tiles | None = None
        self._kept: list[Tensor] = []
        """Tensors whose addresses the structures hold."""

    def prepare(self) -> None:
        """Pack the weights now, so that the first step need not."""
        with self._lock:
            self._renew()

    def release(self) -> None:
        """Give back the packed copy (unless it is the only one) and the working memory; the next step packs again."""
        with self._lock:
            self._capacity = (0, 0, 0)
            self._workspace = torch.zeros(0, dtype=torch.uint8)
            self._adapters.clear()
            if self._parameters:
                self._tiles, self._stamp = None, ()
                self._kept.clear()

    def keep_only_copy(self) -> None:
        """Pack the weights for the last time: from now on nobody's parameters are looked at."""
        with self._lock:
            self._renew()
            self._parameters, self._stamp = [], stamp_of([])

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
            self._make_room(lib, step, len(tokens_T), rank)
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
        if packed is None or packed.stamp != stamp_of(packed.parameters):
            packed = self._adapters[lora] = PackedAdapter(lora, self._blocks, self._shape)
        return packed

    def _make_room(self, lib: ctypes.CDLL, step: _Step, tokens: int, rank: int) -> None:
        needed = (-(-tokens // 64) * 64, rank, step.threads)
        grown = tuple(max(have, need) for have, need in zip(self._capacity, needed, strict=True))
        step.cap_tokens, step.cap_rank, step.cap_threads = grown
        if grown != self._capacity:
            size = lib.workspace_bytes(ctypes.byref(self._model), ctypes.byref(step))
            self._workspace = zeros(size)
            self._capacity = grown
        step.workspace = self._workspace.data_ptr()

    def _renew(self) -> None:
        """Pack again if a weight changed since the last time."""
        stamp = stamp_of(self._parameters)
        if stamp == self._stamp:
            return
        first = self._blocks[0].projections
        depth = 32 if self._precision == "bfloat16" else DEPTH
        steps = {which: -(-first[which][0].weight.shape[1] // depth) for which in MATRICES}
        size = {which: PAIR_BYTES[self._precision] * self._shape.pairs[which] * steps[which] for which in MATRICES}
        if self._tiles is None:
            self._tiles = Tiles(len(self._blocks), sum(size.values()))
        begin = self._tiles.address
        self._kept.clear()

        @torch.no_grad()
        def pack_block(number: int) -> None:
            layer, block, at = self._layers[number], self._blocks[number], begin + number * sum(size.values())
            for i, which in enumerate(MATRICES):
                layer.matrix[i] = self._matrix(which, block, at, steps[which])
                at += size[which]
            layer.norm_in, layer.norm_mid = self._float(block.norm_in), self._float(block.norm_mid)
            layer.q_norm, layer.k_norm = self._float(block.q_norm), self._float(block.k_norm)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(pack_block, range(len(self._blocks))))
        embedding, norm, cos, sin = (self._float(tensor) for tensor in self._floats)
        self._model.embedding, self._model.norm, self._model.cos, self._model.sin = embedding, norm, cos, sin
        self._stamp = stamp

    def _matrix(self, which: str, block: BlockWeights, at: int, steps: int) -> Matrix:
        """A matrix of a block, packed at an address."""
        projections = block.projections[which]
        weights = [p.weight for p in projections]
        bias, pairs = self._float(self._shape.bias(which, projections)), self._shape.pairs[which]
        if self._precision == "bfloat16":
            self._shape.pack(which, at, steps, weights)
            return Matrix(at, bias, None, pairs, steps, 16)
        integers = to_integers(self._shape.put_together(which, weights), self._precision)
        packed = tiles(integers)
        ctypes.memmove(at, packed.data_ptr(), packed.numel())
        return Matrix(at, bias, self._float(integers.scale_O.contiguous()), pairs, steps, BITS[self._precision])

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
