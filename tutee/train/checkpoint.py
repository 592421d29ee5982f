"""Checkpoints as folders that are complete or absent.

A checkpoint is written beside its place under a temporary name, every file is hashed and flushed, and one rename puts
it there: a crash at any moment leaves either the whole folder or none. `RunCheckpoints` are those of one run, which
several processes may share: the first one writes, all read. Knows tensors and numbers, not what they mean.
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
from tutee.train.parallel import Ranks, digest

_SUMS = "checksums.json"
NEWEST = 2
"""Checkpoints of a run that are kept, `step-000010` …"""


class RunCheckpoints:
    """The checkpoints of one run in its folder.

    Args:
        fingerprint: a hash of all that decides the run's numbers.
        ranks: the processes of the run; they must all ask.
    """

    def __init__(self, folder: Path, fingerprint: str, ranks: Ranks) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._ranks = ranks

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest one, if there is any.

        Raises:
            InvalidInput: it belongs to another run. Diverged: the processes do not see the same one.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self._folder.glob(".step-*.tmp") if self._ranks.first else ():
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed while it wrote
        newest = latest_checkpoint(self._folder)
        self._ranks.require_same(newest.name if newest else "", "checkpoint to go on from")
        if newest is None:
            return None
        tensors, state = read_checkpoint(newest)
        if state.get("fingerprint") != self._fingerprint:
            raise InvalidInput(
                f"The checkpoints in {self._folder.name} belong to another run (other data, settings or base model).",
                code="wrong_checkpoint",
            )
        return tensors, state

    def write(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Add the one after `step` and drop the oldest.

        Raises:
            Diverged: the processes do not have the same weights any more.
        """
        if self._ranks.size > 1:
            self._ranks.require_same(digest(tensors), "weights")
        if self._ranks.first:
            write_checkpoint(self._folder / f"step-{step:06d}", tensors, {"fingerprint": self._fingerprint, **state})
            for old in sorted(self._folder.glob("step-*"))[:-NEWEST]:
                shutil.rmtree(old, ignore_errors=True)
        self._ranks.wait()


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
