"""Checkpoints as folders that are complete or absent.

A checkpoint is written beside its place under a temporary name, every file is hashed and flushed, and one rename puts
it
there: a crash at any moment leaves either the whole folder or none. Knows tensors and numbers, not what they mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutee.errors import InvalidInput

_SUMS = "checksums.json"


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write `tensors` and the JSON `state` as the checkpoint `folder`, replacing an older one of that name."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary / "tensors.safetensors"
    )
    (temporary / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    sums = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
    (temporary / _SUMS).write_text(json.dumps(sums), encoding="utf-8")
    for path in [*temporary.iterdir(), temporary]:
        flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    flush(folder.parent)
    return folder


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and state of a checkpoint.

    Raises:
        InvalidInput: a file is missing or is not what was written.
    """
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        wrong = [name for name, sum_ in sums.items() if _sha256(folder / name) != sum_]
        if wrong:
            raise InvalidInput(
                f"The checkpoint {folder.name} is damaged: {', '.join(wrong)}.", code="damaged_checkpoint"
            )
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return load_file(folder / "tensors.safetensors"), state
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidInput(
            f"The checkpoint {folder.name} cannot be read: {error}", code="damaged_checkpoint"
        ) from error


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the highest step in `folder` (names `step-000040`), passing over damaged ones."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            read_checkpoint(path)
        except InvalidInput:
            continue
        return path
    return None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is complete or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    flush(temporary)
    os.replace(temporary, path)


def flush(path: Path) -> None:
    """Make a file or folder entry survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
