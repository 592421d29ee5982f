"""The network: embedding, blocks, norm, head, with Hugging Face parameter names. One forward pass for everything.

Two precisions. "float32" is exact: a token's numbers do not depend on what else is in the batch, nor on whether its past
came from the cache. "bfloat16" is fast: matrices and cache in bfloat16; residual stream, norms, softmax, embedding and
head in float32, because near ties between tokens are decided there.

Axes: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutee.model.config import DecoderConfig
from tutee.model.layout import Layout


class Decoder(nn.Module):
    """A Llama-family decoder. `state_dict()` has the names and shapes of transformers.

    Parameters are created frozen for inference; a trainer calls `requires_grad_(True)` for full fine-tuning.
    """

    config: DecoderConfig
    dtype: torch.dtype
    """Compute precision of the matrices, and what a `KVCache` for this decoder must hold."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        raise NotImplementedError

    def forward(self, tokens_T: Tensor, positions_T: Tensor, layout: Layout) -> Tensor:
        """Hidden states after the final norm, float32 [T, D]."""
        raise NotImplementedError

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Next-token logits, float32 [T, V]."""
        raise NotImplementedError
