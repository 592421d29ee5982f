"""Which wall this machine can put around a person's Python, and the plan that `launch.py` builds it from.

Bubblewrap where it is installed and works, else namespaces made by `launch.py` itself (root, or a kernel that lets
anybody make a user namespace), else none: then nothing is run, unless the operator asked for that. Inside there are
`/usr`, the libraries, this Python with its packages, all read-only, and an empty `/tmp` in memory: no home, no
database, no network, no other process.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutee.grade.launch import DEVICES, NOBODY

How = Literal["bubblewrap", "namespaces", "none"]
INSIDE = (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")
SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
DOCUMENTATION = "docs/graders.md"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one grader may use. Bytes and seconds."""

    memory: int = 1 << 30
    tmp: int = 16 << 20
    files: int = 64
    seconds: float = 10.0
    """For one call, by the clock."""
    start_seconds: float = 60.0
    """To start and load the source."""
    cpu_seconds: int = 600
    """Of a process's whole life; a fresh one takes over well before."""


def possible_ways() -> list[How]:
    """What could work here, best first; whether it does is found out by trying."""
    return ["bubblewrap", "namespaces"] if shutil.which("bwrap") else ["namespaces"]


def plan(how: How, limits: Limits, hidden: Sequence[Path]) -> dict[str, Any]:
    """What `launch.py` is told.

    Args:
        hidden: folders that must not be seen even if they lie inside something visible.
    """
    visible = _visible()
    covered = [str(path.resolve()) for path in hidden if any(_inside(str(path.resolve()), each) for each in visible)]
    python = os.path.join(os.path.realpath(sys.prefix), "bin", os.path.basename(sys.executable))
    command = [python, "-s", "-P", "-B", "-c", INSIDE]
    if how == "bubblewrap":
        command = [*_bubblewrap(visible, covered, limits), *command]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **one_thread}
    return {
        "how": how,
        "command": command,
        "environment": environment,
        "visible": visible,
        "hidden": covered,
        "tmp": limits.tmp,
    }


def _visible() -> list[str]:
    """System folders and this Python's, without those that lie inside another."""
    wanted = [path for path in SYSTEM if os.path.lexists(path)]
    for prefix in (sys.prefix, sys.base_prefix):
        real = os.path.realpath(prefix)
        if real != "/" and not any(_inside(real, each) for each in wanted):
            wanted.append(real)
    return wanted


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _bubblewrap(visible: Sequence[str], covered: Sequence[str], limits: Limits) -> list[str]:
    found = shutil.which("bwrap")
    assert found is not None
    out = [found, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    out += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]  # root's sandbox would be root in it
    out += ["--size", str(limits.tmp), "--tmpfs", "/tmp"]  # before the rest: the interpreter may live there
    for path in visible:
        out += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for path in covered:
        out += ["--tmpfs", path]
    for path in DEVICES:
        out += ["--dev-bind", path, path]
    out += ["--chdir", "/tmp", "--remount-ro", "/"]
    return [*out, "--"]
