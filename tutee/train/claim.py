"""Whose a run's folder is: the one command that may go on in it.

What decides a run is written down beside its checkpoints, so that the same command goes on where it was, and another
one is told what differs instead of being given the old run's result. Knows names and JSON values, no method.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tutee.errors import InvalidInput
from tutee.train.checkpoint import write_json
from tutee.train.record import FILES

FILE = "run.json"
UNDECIDING = ("checkpoint_every", "token_budget", "transcripts_every")
"""Settings that may change when a run goes on: they say how it is computed and shown, not what comes out."""


def claim(folder: Path, own: Mapping[str, Any], *, free: Collection[str] = (), writes: bool = True) -> None:
    """Make `folder` this run's own.

    A folder in which nothing was done yet is anybody's: a run that was refused can be tried again with other settings.

    Args:
        own: all that decides the run, JSON values by name.
        free: names of what may change until the run is finished.
        writes: of several processes, one does.

    Raises:
        InvalidInput: it holds another run, naming what differs (`wrong_checkpoint`).
    """
    path = folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    begun = any(entry.name not in (FILE, *FILES) and not entry.name.startswith(".") for entry in folder.iterdir())
    if begun and path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        may_change = () if (folder / "result.json").exists() else free
        names = sorted(own.keys() | there.keys())
        other = [name for name in names if own.get(name) != there.get(name) and name not in may_change]
        if other:
            raise InvalidInput(
                f"The folder {folder.name} holds a run with another {', '.join(other)}. Start in another folder, or "
                "give the same command again to go on with that one.",
                code="wrong_checkpoint",
            )
    if writes:
        write_json(path, dict(own))


def hash_of(rows: Iterable[Any]) -> str:
    """A hash of rows of data, each a dataclass of plain values."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()
