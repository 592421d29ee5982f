"""Paged keys and values: one tensor of blocks per layer, written by slot and read by block.

Knows where a token's key and value go (`slot = block * block_size + offset`). Does not know which request owns a block:
that is `engine/blocks.py`.

Axes: T tokens, G kv heads, K head dim, N blocks.
"""

from __future__ import annotations

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
        raise NotImplementedError

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        """Store the new tokens' keys and values of one layer."""
        raise NotImplementedError

    def copy_block(self, source: int, target: int) -> None:
        """Copy all layers of one block (for a writer that shares its last, partly filled block)."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        raise NotImplementedError
