"""Safetensors files: one or sharded, checked on the way in, complete or absent on the way out; and their hash.

Pickled weights (`.bin`, `.pt`) are refused: opening one runs whatever code it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def load_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder by name (memory-mapped where possible).

    Raises:
        InvalidInput: no weights there, only pickled ones, a file that is cut short, a shard that is missing.
    """
    raise NotImplementedError


def save_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write one safetensors file through a temporary name, flushed to disk before it takes its own."""
    raise NotImplementedError


def weights_sha256(folder: Path) -> str:
    """Hex SHA-256 over the folder's weight files, in order of name; remembered beside them until size or time changes."""
    raise NotImplementedError
