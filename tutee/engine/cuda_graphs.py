"""Decode steps on a CUDA device: the whole step of a batch size is recorded once as a CUDA graph and replayed.

A step with one new token a sequence is some three hundred small kernels; started one by one from Python they take
several times as long as they run. In a graph they start together. Everything a replay reads lies at fixed addresses:
the step's integers travel in one copy, adapters lie side by side in a room of fixed size, rows beyond the batch point
at the scratch block. Knows the decoder's parts and the step's integers; not how tokens are sampled from the logits.

Axes: T rows (one a sequence), D hidden, V vocabulary, r ranks of all adapters side by side.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tutee.engine.blocks import SCRATCH_BLOCK
from tutee.engine.scheduler import Scheduled
from tutee.model import triton_kernels as kernels
from tutee.model.adapted import Matrices
from tutee.model.decoder import Block, Decoder
from tutee.model.kv_cache import KVCache
from tutee.model.lora import Lora

RANKS = 128
"""Ranks of all adapters of one step together: eight of rank 16."""
PROGRAMS = 1024
"""Attention programs that keep the device busy: fewer rows split their past into more parts."""


class DecodeGraphs:
    """Recorded decode steps over one decoder and one cache; records a batch size when it first comes."""

    def __init__(self, decoder: Decoder, cache: KVCache, max_batch: int = 256) -> None:
        self._sizes = _batch_sizes(max_batch)
        self._step = DecodeStep(decoder, cache, self._sizes[-1])
        self._head = _Head(decoder)
        self._graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def supported(decoder: Decoder) -> bool:
        """Whether steps of this decoder can be recorded: bfloat16 on a CUDA device, heads that fit the kernels."""
        on_cuda = decoder.head_weight.device.type == "cuda"
        return on_cuda and decoder.dtype == torch.bfloat16 and kernels.supported(decoder.config.head_dim)

    def takes(self, items: Seq[Scheduled]) -> bool:
        """Whether this is such a step and fits: one token each, so many rows, so many ranks of adapters."""
        one_each = all(item.count == 1 and item.samples for item in items)
        return one_each and len(items) <= self._sizes[-1] and self._step.adapters.fits(_loras(items))

    @torch.no_grad()
    def logits(self, items: Seq[Scheduled]) -> Tensor:
        """Next-token logits float32 [T, V] of items that bring one token each; overwritten by the next call."""
        adapted = self._step.send(items)
        size = next(size for size in self._sizes if size >= len(items))
        if self._head.refresh():
            self._graphs.clear()
        if (size, adapted) not in self._graphs:
            self._graphs[size, adapted] = self._record(size, adapted)
        graph, logits_TV = self._graphs[size, adapted]
        graph.replay()
        return logits_TV[: len(items)]

    def _record(self, size: int, adapted: bool) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        def whole_step() -> Tensor:
            return self._head.logits(self._step.hidden(size, adapted))

        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # Kernels are compiled and libraries choose before anything is recorded.
            whole_step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits_TV = whole_step()
        return graph, logits_TV


class DecodeStep:
    """One new token of up to `rows` sequences, through tensors that stay where they are."""

    def __init__(self, decoder: Decoder, cache: KVCache, rows: int) -> None:
        self._decoder, self._cache, self._rows = decoder, cache, rows
        self._blocks = cast(list[Block], list(decoder.model.layers))
        self._device = cache.keys[0].device
        # Rows that share a prefix each name its blocks, so together they may name more than there are.
        longest = min(cache.num_blocks, -(-decoder.config.max_position_embeddings // cache.block_size))
        room = 5 * rows + rows * longest
        self._host = torch.zeros(room, dtype=torch.int32, pin_memory=self._device.type == "cuda")
        self._ints = torch.zeros(room, dtype=torch.int32, device=self._device)
        self.adapters = _AdapterRoom(decoder, rows, self._device)

    def send(self, items: Seq[Scheduled]) -> bool:
        """Bring the step's input to the device: integers in one copy, adapters if they are not there already.

        Tokens, positions, slots, contexts, where each row's blocks begin, then the blocks.

        Returns:
            Whether any row has an adapter.
        """
        block_size, host = self._cache.block_size, self._host.numpy()
        columns = host[: 5 * self._rows].reshape(5, self._rows)
        columns[:] = 0
        columns[2] = SCRATCH_BLOCK * block_size
        for row, item in enumerate(items):
            sequence = item.sequence
            place, offset = divmod(sequence.computed, block_size)
            block = SCRATCH_BLOCK if sequence.computed < sequence.reused else sequence.blocks[place]
            slot = block * block_size + offset
            columns[:4, row] = sequence.tokens[sequence.computed], sequence.computed, slot, sequence.computed + 1
        counts = [-(-(item.sequence.computed + 1) // block_size) for item in items]
        columns[4, : len(items)] = np.cumsum([0, *counts[:-1]])
        used = 5 * self._rows
        for item, count in zip(items, counts, strict=True):
            host[used : used + count] = item.sequence.blocks[:count]
            used += count
        self._ints[:used].copy_(self._host[:used], non_blocking=True)
        return self.adapters.place([item.sequence.version.lora for item in items])

    def hidden(self, size: int, adapted: bool) -> Tensor:
        """Hidden states after the final norm, float32 [size, D], of what was sent; rows beyond it compute nothing."""
        tokens_T, positions_T, slots_T, contexts_T, starts_T = (
            self._ints[column * self._rows :][:size] for column in range(5)
        )
        blocks = self._ints[5 * self._rows :]
        config, model, eps = self._decoder.config, self._decoder.model, self._decoder.config.rms_norm_eps
        heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        room = self._room(size)
        masks = self.adapters.masks(size) if adapted else None
        x_TD = functional.embedding(tokens_T.long(), model.embed_tokens.weight)
        change_TD: Tensor | None = None
        rotation = self._decoder.rope_cos, self._decoder.rope_sin
        for layer, block in enumerate(self._blocks):
            attention = block.self_attn
            kernels.add_norm(x_TD, change_TD, block.input_layernorm.weight, eps, room.normed_TD)
            qkv_TXK = self._product(attention.inputs, room.normed_TD, masks).view(size, heads + 2 * kv_heads, width)
            norms = (attention.q_norm.weight, attention.k_norm.weight) if config.qk_norm else None
            cached = self._cache.keys[layer], self._cache.values[layer]
            kernels.turn_and_store(qkv_TXK, rotation, norms, eps, positions_T, slots_T, *cached)
            past = kernels.Past(blocks, starts_T, contexts_T, self._cache.block_size, config.sliding_window)
            kernels.attend_paged(qkv_TXK, *cached, past, room.parts, room.mixed_THK)
            change_TD = self._product(attention.output, room.mixed_THK.view(size, -1), masks)
            kernels.add_norm(x_TD, change_TD, block.post_attention_layernorm.weight, eps, room.normed_TD)
            kernels.gate(self._product(block.mlp.inputs, room.normed_TD, masks), room.gated_TF)
            change_TD = self._product(block.mlp.output, room.gated_TF, masks)
        hidden_TD = torch.empty_like(x_TD)
        kernels.add_norm(x_TD, change_TD, model.norm.weight, eps, hidden_TD)
        return hidden_TD

    def _room(self, size: int) -> _Room:
        config = self._decoder.config
        heads, width = config.num_attention_heads, config.head_dim
        parts = max(1, min(32, PROGRAMS // (size * config.num_key_value_heads)))

        def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=self._device)

        dtype = self._decoder.dtype
        return _Room(
            room(size, config.hidden_size, dtype=dtype),
            room(size, heads, width, dtype=dtype),
            room(size, config.intermediate_size, dtype=dtype),
            (room(size, heads, parts, width), room(size, heads, parts, 2)),
        )

    def _product(self, matrices: Matrices, x_TD: Tensor, masks: dict[int, Tensor] | None) -> Tensor:
        out_TO = matrices.base(x_TD)
        return out_TO if masks is None else self.adapters.add(matrices, x_TD, out_TO, masks)


@dataclass(frozen=True, slots=True)
class _Room:
    """What a step writes between its products, the same memory in every layer."""

    normed_TD: Tensor
    mixed_THK: Tensor
    gated_TF: Tensor
    parts: tuple[Tensor, Tensor]


class _Head:
    """Logits as good as float32 from bfloat16 products: weight and input each as a coarse part and the rest.

    The float32 weight of a model that was trained in bfloat16 has no rest, so it is read once, in half the bytes.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._stamp: tuple[int, int] | None = None
        self._coarse_VD = torch.empty_like(decoder.head_weight, dtype=torch.bfloat16)
        self._rest_VD: Tensor | None = None
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> bool:
        """Make the parts again if the weight changed; True when recorded graphs have to be made again too."""
        weight = self._decoder.head_weight
        stamp = weight._version, weight.data_ptr()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._coarse_VD.copy_(weight)
        rest_VD = (weight - self._coarse_VD).bfloat16()
        if not bool(rest_VD.any()):
            had, self._rest_VD = self._rest_VD is not None, None
            return had
        if self._rest_VD is not None:
            self._rest_VD.copy_(rest_VD)
            return False
        self._rest_VD = rest_VD
        return True

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Float32 [T, V]."""
        coarse_TD = hidden_TD.bfloat16()
        rest_TD = (hidden_TD - coarse_TD).bfloat16()
        rows = len(hidden_TD)
        both = torch.mm(torch.cat((coarse_TD, rest_TD)), self._coarse_VD.t(), out_dtype=torch.float32)
        out_TV = both[:rows].add_(both[rows:])
        if self._rest_VD is None:
            return out_TV
        return out_TV.add_(torch.mm(coarse_TD, self._rest_VD.t(), out_dtype=torch.float32))


class _AdapterRoom:
    """The adapters of a step side by side, as one more low-rank product a matrix, masked by whose row it is.

    Args:
        rows: most rows of a step.
    """

    def __init__(self, decoder: Decoder, rows: int, device: torch.device) -> None:
        self._matrices = [
            matrices
            for block in cast(list[Block], list(decoder.model.layers))
            for matrices in (block.self_attn.inputs, block.self_attn.output, block.mlp.inputs, block.mlp.output)
        ]
        self._dtype = decoder.dtype
        self._device = device
        self._mask_Tr = torch.zeros(rows, RANKS, dtype=decoder.dtype, device=device)
        self._host_mask = torch.zeros(rows, RANKS, dtype=decoder.dtype, pin_memory=device.type == "cuda")
        self._placed: tuple[tuple[int, int], ...] = ()
        self._owners: tuple[Lora | None, ...] = ()
        self._weights: dict[Matrices, tuple[Tensor, Tensor]] = {}

    def fits(self, loras: Seq[Lora]) -> bool:
        """Whether there is room for all of them at once."""
        return sum(lora.config.rank for lora in loras) <= RANKS

    def place(self, owners: Seq[Lora | None]) -> bool:
        """Put the rows' adapters into the room, if they are not there already; False when no row has one."""
        loras = list(dict.fromkeys(lora for lora in owners if lora is not None))
        if not loras:
            return False
        stamps = tuple((id(lora), sum(parameter._version for parameter in lora.parameters())) for lora in loras)
        if stamps != self._placed:
            self._copy(loras)
            self._placed = stamps
            self._owners = ()
        if tuple(owners) != self._owners:
            self._owners = tuple(owners)
            offsets = dict(zip(loras, np.cumsum([0, *(lora.config.rank for lora in loras)]), strict=False))
            mask = self._host_mask.zero_()
            for row, lora in enumerate(owners):
                if lora is not None:
                    mask[row, offsets[lora] : offsets[lora] + lora.config.rank] = 1.0
            self._mask_Tr.copy_(mask, non_blocking=True)
        return True

    def masks(self, size: int) -> dict[int, Tensor]:
        """For matrices of so many names: which of the room's columns concern each row, [T, names * r]."""
        return {names: self._mask_Tr[:size].repeat_interleave(names, dim=1) for names in (1, 2, 3)}

    def add(self, matrices: Matrices, x_TD: Tensor, out_TO: Tensor, masks: dict[int, Tensor]) -> Tensor:
        """The base's product and what each row's adapter adds to it."""
        a, b = self._weights[matrices]
        return torch.addmm(out_TO, functional.linear(x_TD, a).mul_(masks[len(matrices.names)]), b)

    def _copy(self, loras: Seq[Lora]) -> None:
        for matrices in self._matrices:
            names, width_out = matrices.names, sum(matrices.widths)
            if matrices not in self._weights:
                width_in = matrices.base.parts[0].weight.shape[1]
                a = torch.zeros(len(names) * RANKS, width_in, dtype=self._dtype, device=self._device)
                b = torch.zeros(len(names) * RANKS, width_out, dtype=self._dtype, device=self._device)
                self._weights[matrices] = a, b
            a, b = self._weights[matrices]
            a.zero_()
            b.zero_()
            offset = 0
            for lora in loras:
                found = lora.matrices(names, matrices.widths, self._dtype)
                if found is not None:
                    a[offset : offset + len(found[0])] = found[0]
                    b[offset : offset + len(found[0])] = found[1].t()
                offset += len(names) * lora.config.rank


def _loras(items: Seq[Scheduled]) -> list[Lora]:
    return list(dict.fromkeys(item.sequence.version.lora for item in items if item.sequence.version.lora is not None))


def _batch_sizes(most: int) -> list[int]:
    """1, 2, 4, 8, then in steps of 8 and later 32 up to at least `most`."""
    sizes = [1, 2, 4, *range(8, 65, 8), *range(96, max(97, most + 32), 32)]
    return [size for size in sizes if size < most] + [next(size for size in sizes if size >= most)]
