"""C files of this package, compiled once for this machine and loaded.

Knows the system's C compiler and a cache folder; not what the functions compute. Where there is no compiler, or
`TUTEE_KERNELS=off`, there are no such functions, and whoever asks goes on in PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

_log = logging.getLogger(__name__)
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
SECONDS = 120


@functools.cache
def load(name: str, *flags: str) -> ctypes.CDLL | None:
    """The library made of `NAME` (a `.c` file beside this one), or None where it cannot be; why is logged once.

    A call through it releases Python's lock, so other threads run meanwhile.

    Args:
        flags: for the compiler, after `FLAGS`.
    """
    if os.environ.get("TUTEE_KERNELS", "").lower() in ("off", "0", "no"):
        _log.info("TUTEE_KERNELS is off: %s is not used", name)
        return None
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        _log.warning("No C compiler (%s): PyTorch computes what %s would, slower", compiler[0], name)
        return None
    try:
        return ctypes.CDLL(str(_compile(Path(__file__).with_name(name), [*compiler, *FLAGS, *flags])))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: this user has no home
        said = getattr(error, "stderr", None) or error
        _log.warning("%s is not used, PyTorch computes instead, slower: %s", name, said)
        return None


AMX = frozenset({"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"})


@functools.cache
def load_amx(name: str) -> ctypes.CDLL | None:
    """`load` for files on `amx.h`, in as many threads as PyTorch; None also where there are no matrix units to use."""
    library = load(name, "-fopenmp") if cpu_flags() >= AMX else None
    return library if library is not None and library.allow_tiles() else None


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in Linux's words; empty where they are not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split()[2:])


def _compile(source: Path, command: list[str]) -> Path:
    """The library's file: found under the hash of all that decides its content, or made, complete or absent."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True, timeout=SECONDS)
    headers = sorted(source.parent.glob("*.h"))
    identity = [version.stdout, *command, *sorted(cpu_flags())]
    identity += [path.read_text(encoding="utf-8") for path in (source, *headers)]
    key = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutee"
    library = folder / f"{source.stem}-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{library.name}.{os.getpid()}.{threading.get_ident()}"
        try:
            subprocess.run(
                [*command, str(source), "-o", str(temporary), "-lm"],
                capture_output=True,
                text=True,
                check=True,
                timeout=SECONDS,
            )
            temporary.rename(library)
        finally:
            temporary.unlink(missing_ok=True)
    return library
