"""Rotary position embedding (Su et al. 2021), in transformers' half-split form, with linear and Llama 3 scaling.

Axes: T tokens, H heads (query or kv), K head dim, P positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutee.model.config import DecoderConfig


def inverse_frequencies(config: DecoderConfig) -> Tensor:
    """Radians per position, float32 [K / 2]."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies: Tensor = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling["rope_type"] == "linear":
        return frequencies.div(scaling["factor"])
    # Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between are blended.
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    blend = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
    blended: Tensor = (1 - blend) * frequencies / scaling["factor"] + blend * frequencies
    return blended


def rope_table(config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """(cosines, sines), float32 [P, K / 2]. Made once, so that a position's numbers never depend on the batch."""
    positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
    angles = torch.outer(positions, inverse_frequencies(config))
    return angles.cos(), angles.sin()


def rotate(x_THK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
    """Turn each head by its token's position; float32 (cos and sin are [T, 1, K / 2])."""
    first, second = x_THK.chunk(2, dim=-1)
    return torch.cat((first * cos_T1K - second * sin_T1K, second * cos_T1K + first * sin_T1K), dim=-1)
