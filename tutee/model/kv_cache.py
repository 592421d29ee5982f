"""Paged keys and values: one tensor of blocks per layer, written by slot and read by block.

Knows where a token's key and value go (`slot = block * block_size + offset`). Does not know which request owns a block:
that is `engine/blocks.py`.

Axes: T tokens, B sequences, S cached keys, G kv heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutee.model.config import DecoderConfig


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
        shape = (num_blocks * block_size, config.num_key_value_heads, config.head_dim)
        # Zeros, not garbage: padded reads are masked, but a NaN times a zero weight is still a NaN.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]

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
        size = self.block_size
        for stored in (*self.keys, *self.values):
            stored[target * size : (target + 1) * size] = stored[source * size : (source + 1) * size]

    def clear(self, blocks: Sequence[int]) -> None:
        """Back to zeros, in all layers: before blocks that received numbers that are not finite get another owner."""
        index = torch.tensor(blocks, device=self.keys[0].device)
        for stored in (*self.keys, *self.values):
            stored.view(self.num_blocks, -1)[index] = 0.0

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return sum(stored.nbytes for stored in (*self.keys, *self.values))
