"""Safetensors files: one or sharded, checked on the way in, complete or absent on the way out; and their hash.

Pickled weights (`.bin`, `.pt`) are refused: opening one runs whatever code it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutee.errors import InvalidInput

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
REMEMBERED = ".weights_sha256.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a model or adapter folder, in order of name.

    Raises:
        InvalidInput: there are none, only pickled ones, or a shard named by the index is missing.
    """
    if (folder / INDEX).is_file():
        try:
            listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            names = sorted({os.fspath(name) for name in listed})
        except (ValueError, KeyError, AttributeError, TypeError):
            raise _bad(f"{folder / INDEX} is not a safetensors index. Copy the folder again.") from None
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise _bad(f"{INDEX} names {name!r}, which is not in {folder}. Copy the folder again.")
        return [folder / name for name in names]
    for name in (SINGLE, ADAPTER):
        if (folder / name).is_file():
            return [folder / name]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InvalidInput(
            f"{folder} has pickled weights only ({pickles[0]}). Opening a pickle can run any code, so tutee does not; "
            "convert the model to safetensors first.",
            param="model",
            code="pickle_refused",
        )
    raise _bad(f"{folder} holds no {SINGLE}.", code="not_a_model")


def load_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model or adapter folder by name, memory-mapped.

    Raises:
        InvalidInput: no weights there, only pickled ones, a file that is cut short, a shard that is missing.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            tensors |= load_file(path)
        except (SafetensorError, ValueError) as error:
            raise _bad(
                f"{path.name} in {folder} is damaged or cut short ({error}). Copy or download it again.",
                code="damaged_weights",
            ) from None
    return tensors


def save_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write one safetensors file through a temporary name, flushed to disk before it takes its own."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Force a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def weights_sha256(folder: Path) -> str:
    """Hex SHA-256 over the folder's weight files, in order of name; remembered beside them until they change."""
    files = weight_files(folder)
    stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    memory = folder / REMEMBERED
    try:
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["files"] == stamps:
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    try:
        temporary = memory.with_name(f"{REMEMBERED}.{os.getpid()}")
        temporary.write_text(json.dumps({"files": stamps, "sha256": digest.hexdigest()}), encoding="utf-8")
        os.replace(temporary, memory)
    except OSError:
        pass  # a read-only folder: hash again next time
    return digest.hexdigest()


def _bad(message: str, code: str = "damaged_weights") -> InvalidInput:
    return InvalidInput(message, param="model", code=code)
