"""A lock on a file: one holder at a time on this machine, gone with the process however that ends.

Knows nothing of who holds it or why.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tutee.errors import Busy


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at `path`. The file says who has it: the holder's pid and `what` it is.

    Raises:
        Busy: somebody else holds it; the message names them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "an unknown process"
            advice = "Stop it, or give this one a home of its own with TUTEE_HOME."
            raise Busy(f"{path.parent} is already in use by {holder}. {advice}") from None
        file.truncate(0)
        file.write(f"{what}, pid {os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, after whoever holds it now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    if not path.exists():
        return False
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
