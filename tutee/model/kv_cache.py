"""Paged keys and values: one tensor of blocks per layer, written by slot and read by block.

`KVCache` keeps them as PyTorch reads them, `TiledCache` as the C kernels do.

Knows where a token's key and value go (`slot = block * block_size + offset`). Does not know which request owns a block:
that is `engine/blocks.py`.

Axes: T tokens, B sequences, S cached keys, G kv heads, K head dim.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tutee.model.config import DecoderConfig
from tutee.model.matrix_unit import BLOCK, zeros


class KVCache:
    """Keys and values of every layer for `num_blocks * block_size` tokens.

    Args:
        config: the decoder whose layers and heads these are.
        num_blocks: how many blocks; block 0 is as good as any other.
        block_size: tokens in a block.
        dtype: the decoder's compute precision (`Decoder.dtype`).
    """

    def __init__(
        self,
        config: DecoderConfig,
        num_blocks: int,
        block_size: int = 16,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.device = torch.device(device)
        self._config = config
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.allocate()

    def allocate(self) -> None:
        """Take the memory, all zeros, unless it is taken."""
        if self.keys:
            return
        key_shape, value_shape = self._shapes()
        layers = range(self._config.num_hidden_layers)
        # Zeros, not garbage: padded reads are masked, but a NaN times a zero weight is still a NaN.
        self.keys = [self._room(key_shape) for _ in layers]
        self.values = [self._room(value_shape) for _ in layers]

    def release(self) -> None:
        """Give the memory back, with all that was written; nothing may be read or written until `allocate`."""
        self.keys, self.values = [], []

    def _room(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        config = self._config
        shape = (self.num_blocks * self.block_size, config.num_key_value_heads, config.head_dim)
        return shape, shape

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        """Store the new tokens' keys and values of one layer."""
        self.keys[layer].index_copy_(0, slots_T, k_TGK.detach())
        self.values[layer].index_copy_(0, slots_T, v_TGK.detach())

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, S, G, K] of B rows of block numbers [B, S / block_size]."""
        return self._gather(self.keys[layer], blocks), self._gather(self.values[layer], blocks)

    def _gather(self, stored_SGK: Tensor, blocks: Tensor) -> Tensor:
        whole_blocks = stored_SGK.view(self.num_blocks, -1).index_select(0, blocks.flatten())
        return whole_blocks.view(blocks.shape[0], blocks.shape[1] * self.block_size, *stored_SGK.shape[1:])

    def copy_block(self, source: int, target: int) -> None:
        """Copy all layers of one block (for a writer that shares its last, partly filled block)."""
        for stored in (*self.keys, *self.values):
            blocks = stored.view(self.num_blocks, -1)
            blocks[target] = blocks[source]

    def clear(self, blocks: Sequence[int]) -> None:
        """Back to zeros, in all layers: before blocks that received numbers that are not finite get another owner."""
        index = torch.tensor(blocks, device=self.device)
        for stored in (*self.keys, *self.values):
            stored.view(self.num_blocks, -1)[index] = 0.0

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return sum(stored.nbytes for stored in (*self.keys, *self.values))


class TiledCache(KVCache):
    """The same in bfloat16, in the order in which a matrix unit reads it as the second factor of a product.

    A block of 32 tokens and one head is two tiles of keys for each 32 dimensions, [2 halves][K / 2][16 tokens][2
    dimensions], K widened to a multiple of 32, and one tile of values for each 16 dimensions, [K / 16][16 pairs of
    tokens][16 dimensions][2 tokens]. A pair's place is (its quad in its half, its half, its pair in its quad): so the C
    code finds the weights that belong to them when it has made bfloat16 of two vectors of 16.

    Raises:
        ValueError: the block size is no multiple of 32.
    """

    def __init__(self, config: DecoderConfig, num_blocks: int, block_size: int = BLOCK) -> None:
        if block_size % BLOCK:
            raise ValueError(f"block_size is {block_size}; it must be a multiple of {BLOCK}")
        self._head_dim = config.head_dim
        super().__init__(config, num_blocks, block_size, torch.bfloat16)

    def allocate(self) -> None:
        super().allocate()
        self._key_pointers, self._value_pointers = _pointers(self.keys), _pointers(self.values)

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        blocks, heads = self.num_blocks * self.block_size // BLOCK, self._config.num_key_value_heads
        keys = (blocks, heads, 2, _up(self._head_dim, 32) // 2, 16, 2)
        return keys, (blocks, heads, _up(self._head_dim, 16) // 16, 4, 2, 2, 16, 2)

    def _room(self, shape: tuple[int, ...]) -> Tensor:
        return zeros(math.prod(shape) * self.dtype.itemsize).view(self.dtype).view(shape)

    @property
    def addresses(self) -> tuple[int, int]:
        """Where the C code finds the address of each layer's keys, and of its values."""
        return ctypes.addressof(self._key_pointers), ctypes.addressof(self._value_pointers)

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        keys, values = self._by_token(layer)
        block_T, place_T = slots_T // BLOCK, slots_T % BLOCK
        half_T, row_T = place_T // 16, place_T % 16
        k_TGK = functional.pad(k_TGK.detach(), (0, -self._head_dim % 32)).to(self.dtype)
        v_TGK = functional.pad(v_TGK.detach(), (0, -self._head_dim % 16)).to(self.dtype)
        keys[block_T, half_T, row_T] = k_TGK.view(*k_TGK.shape[:2], -1, 2)
        values[block_T, half_T, row_T // 4, row_T % 4 // 2, row_T % 2] = v_TGK.view(*v_TGK.shape[:2], -1, 16)

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._by_token(layer)
        each = self.block_size // BLOCK
        blocks_BN = (blocks.unsqueeze(-1) * each + torch.arange(each)).flatten(1)
        k_BSGK = keys[blocks_BN].flatten(5).flatten(1, 3)
        v_BSGK = values[blocks_BN].flatten(7).flatten(1, 5)
        return k_BSGK[..., : self._head_dim].contiguous(), v_BSGK[..., : self._head_dim].contiguous()

    def _by_token(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer as keys [block, half, row, G, K / 2, 2] and values [block, half, quad, pair, 2, G, K / 16, 16]."""
        return self.keys[layer].permute(0, 2, 4, 1, 3, 5), self.values[layer].permute(0, 4, 3, 5, 7, 1, 2, 6)


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
