"""A decoder's matrices, and an adapter's, cut into tiles for the C code.

Knows which matrices are multiplied together and in which order their outputs lie; not when a copy is out of date.

Axes: D input width, O outputs, r ranks of an adapter side by side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutee.model.config import DecoderConfig
from tutee.model.lora import Lora
from tutee.model.matmul import Projection
from tutee.model.matrix_unit import ROWS, Tiles, pack, stamp_of, steps_of

MATRICES = ("qkv", "out", "glu", "down")


class AdapterMatrices(Structure):
    """What an adapter adds to matrices that are multiplied together (`adapters.h`); no addresses: nothing."""

    _fields_ = (
        *((name, c_void_p) for name in ("a", "b")),
        *((name, c_int64) for name in ("parts", "ranks", "steps")),
    )


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


class Shape:
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
            pack(tiles, steps, first, stride, weight, group, group_tiles)

    def put_together(self, which: str, weights: Sequence[Tensor]) -> Tensor:
        """The matrices one below the other as `pack` puts them: rows [32 * pairs, width], zeros where there is none."""
        width = weights[0].shape[1]
        if which == "qkv":
            groups, rows = [w.view(-1, self.head, width) for w in weights], self.head_tiles * ROWS
        else:
            tiles = self.inner_tiles if which == "glu" else self.width_tiles
            groups, rows = [w.unsqueeze(0) for w in weights], tiles * ROWS
        padded = [nn.functional.pad(w, (0, 0, 0, rows - w.shape[1])) for w in groups]
        if which == "glu":  # a gate's tile and its partner's make a pair
            return torch.stack([w.view(-1, ROWS, width) for w in padded], dim=1).view(-1, width)
        return torch.cat(padded).view(-1, width)

    def bias(self, which: str, projections: Sequence[Projection]) -> Tensor | None:
        """float32, in the order of the tiles."""
        biases = [p.bias for p in projections]
        if all(bias is None for bias in biases):
            return None
        group, padded = (self.head, self.head_tiles * ROWS) if which == "qkv" else (self.width, self.width_tiles * ROWS)
        whole = torch.cat([torch.zeros(len(p.weight)) if p.bias is None else p.bias.float() for p in projections])
        return nn.functional.pad(whole.view(-1, group), (0, padded - group)).flatten().contiguous()


class PackedAdapter:
    """An adapter's matrices in tiles, as they were when this was made.

    `stamp` is that of its `parameters` then; `rank` the most columns that rows times its A take.
    """

    def __init__(self, lora: Lora, blocks: Sequence[BlockWeights], shape: Shape) -> None:
        self.parameters = list(lora.parameters())
        self.stamp = stamp_of(self.parameters)
        self.rank = 0
        self._structures = (AdapterMatrices * (len(blocks) * len(MATRICES)))()
        matrices: list[Tensor] = []
        self._scale, self._ranks = lora.scale, -(-lora.config.rank // ROWS)
        for i, block in enumerate(blocks):
            for j, which in enumerate(MATRICES):
                parts = lora.parts(block.names[which])
                if any(part is not None for part in parts):
                    to = self._structures[i * len(MATRICES) + j]
                    matrices += self._pack(to, which, block.projections[which], parts, shape)
        size = matrices[0].element_size() if matrices else 0
        self._tiles = Tiles(sum(matrix.numel() for matrix in matrices), size)  # one piece, on large pages
        self._fill([matrix.flatten().view(torch.uint8) for matrix in matrices])

    @property
    def address(self) -> int:
        """Of the structures, for all layers and matrices."""
        return ctypes.addressof(self._structures)

    @torch.no_grad()
    def _pack(
        self,
        to: AdapterMatrices,
        which: str,
        projections: Sequence[Projection],
        parts: Sequence[tuple[Tensor, Tensor] | None],
        shape: Shape,
    ) -> tuple[Tensor, Tensor]:
        """A's and B's tiles; matrices that are no target are zeros beside those that are."""
        columns, width = ROWS * self._ranks, projections[0].weight.shape[1]
        steps = steps_of(width)
        a_PrD = torch.zeros(len(parts), columns, 32 * steps, dtype=torch.bfloat16)
        bs = [torch.zeros(len(p.weight), columns, dtype=torch.bfloat16) for p in projections]
        for i, part in enumerate(parts):
            if part is not None:
                a_PrD[i, : len(part[0]), :width] = part[0]
                bs[i][:, : part[1].shape[1]] = part[1] * self._scale
        self.rank = max(self.rank, len(parts) * 32 * -(-self._ranks // 2))
        to.parts, to.ranks, to.steps = len(parts), self._ranks, steps
        return _input_pairs_first(a_PrD.flatten(0, 1), steps), _input_pairs_first(shape.put_together(which, bs), 1)

    def _fill(self, matrices: list[Tensor]) -> None:
        """Put A, B, A, B, … one behind the other and tell the structures where."""
        at, waiting = 0, iter(matrices)
        for structure in self._structures:
            if structure.parts:
                for name in ("a", "b"):
                    matrix = next(waiting)
                    self._tiles.memory[at : at + len(matrix)] = matrix
                    setattr(structure, name, self._tiles.address + at)
                    at += len(matrix)


def _input_pairs_first(matrix: Tensor, steps: int) -> Tensor:
    """bfloat16 [16 n, width] as [n, steps, pairs of a step's inputs, 16] words of two neighbouring inputs."""
    words = matrix.contiguous().view(torch.int32)
    return words.view(len(matrix) // ROWS, ROWS, steps, -1).permute(0, 2, 3, 1).contiguous()
