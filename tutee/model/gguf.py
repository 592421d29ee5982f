"""Reads a GGUF file (llama.cpp's format) and writes it as a Hugging Face folder in float32.

Undoes what llama.cpp's converter did: block quantization, and the reordering of q and k rows for its rotary embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def import_gguf(path: Path, folder: Path, progress: Callable[[str, float], None] | None = None) -> Path:
    """Convert `path` to `folder` (created whole or not at all) and return it.

    Args:
        progress: called with what is being done and the fraction done.

    Raises:
        InvalidInput: not a GGUF file, cut short, or an architecture or tokenizer that we do not read.
    """
    raise NotImplementedError
