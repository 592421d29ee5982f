"""Low-rank adapters (Hu et al. 2021, "LoRA"): y = W x + (alpha / rank) B A x, kept outside the base's parameters.

Files are PEFT's (`adapter_model.safetensors`, `adapter_config.json`). An adapter belongs to one base, by weights hash.
Knows nothing of training or of batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tutee.model.config import DecoderConfig

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """How an adapter is built."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS


class Lora(nn.Module):
    """A and B for every targeted matrix, float32 trainable parameters (`parameters()` is all of them).

    Fresh ones change nothing: A is Kaiming-uniform (from `seed`), B is zero.
    """

    config: LoraConfig

    def __init__(self, decoder_config: DecoderConfig, config: LoraConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        raise NotImplementedError

    def scaled(self, factor: float) -> Lora:
        """A copy whose effect is `factor` times this one's (B is multiplied)."""
        raise NotImplementedError

    def save(self, folder: Path, base_sha256: str, base_name: str = "") -> None:
        """Write a PEFT adapter folder, atomically: complete or absent."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, decoder_config: DecoderConfig, base_sha256: str | None = None) -> Lora:
        """Read a PEFT adapter folder.

        Raises:
            InvalidInput: no adapter there, shapes of another model, or (code `wrong_base`) another base's weights.
        """
        raise NotImplementedError


def merge(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The base's state dict with the adapter's change added to its matrices, in float32, rounded to each tensor's dtype."""
    raise NotImplementedError


_ = torch
