"""A linear head that reads one number out of hidden states: a reward model's score, a critic's value.

Knows nothing of what the number means.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """v(h) = w · h + b, in float32. Starts with weights of std 1/√(D + 1) and no bias (Stiennon et al. 2020, §C.1)."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.empty(width).normal_(0, 1 / math.sqrt(width + 1), generator=generator)
        self.weight = nn.Parameter(start)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """Values, float32 [T]."""
        return hidden_TD.float() @ self.weight + self.bias
