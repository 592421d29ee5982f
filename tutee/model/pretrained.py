"""A model folder opened: config, weights, tokenizer and chat format together; and written back.

Does not know where folders come from (`library.py`) nor which version is live (`store/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tutee.model.chat_format import ChatFormat
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.lora import Lora
from tutee.model.tokenizer import Tokenizer


@dataclass(slots=True)
class Pretrained:
    """Everything needed to run one model."""

    name: str
    folder: Path
    config: DecoderConfig
    decoder: Decoder
    tokenizer: Tokenizer
    chat_format: ChatFormat
    weights_sha256: str
    dtype: torch.dtype


def load_pretrained(
    folder: Path, dtype: str = "bfloat16", name: str | None = None, device: torch.device | str = "cpu"
) -> Pretrained:
    """Open a Hugging Face folder.

    Args:
        dtype: `bfloat16` (fast) or `float32` (exact).
        name: defaults to the folder's name.

    Raises:
        InvalidInput: not a model folder, a kind we do not run, damaged weights, no chat template.
    """
    raise NotImplementedError


def save_version(
    base: Pretrained, folder: Path, state: Mapping[str, Tensor] | None = None, lora: Lora | None = None
) -> str:
    """Save a version: an adapter folder (`lora`) or a full Hugging Face folder (`state`); returns its weights_sha256."""
    raise NotImplementedError


def export_merged(base: Pretrained, lora: Lora | None, folder: Path) -> str:
    """Write the base with the adapter merged in as a float32 Hugging Face folder that transformers opens; returns its hash."""
    raise NotImplementedError
