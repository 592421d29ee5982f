"""The matrix unit of the processor: the compiled C code, memory for what it multiplies, and the layout of its tiles.

Knows whether this machine has one (AMX, AVX-512) and how a matrix is cut into tiles (`tiles.h`); not whose matrices
they are.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import mmap
import operator
from collections.abc import Sequence
from ctypes import Structure, c_int64, c_void_p

import torch
from torch import Tensor

from tutee.model.compiled import cpu_flags, load

_log = logging.getLogger(__name__)
NEEDED = frozenset(
    {"amx_tile", "amx_bf16", "amx_int8", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "avx512vbmi"}
)
ROWS = 16
"""Rows of a tile."""
BLOCK = 32
"""Tokens whose keys and values lie together."""
STEP = 2048
"""Bytes of a pair of tiles: 32 outputs by 32 inputs."""
STEPS_AHEAD = 8
"""How far the C code fetches ahead."""
LARGE = 1 << 21
_VERSION = operator.attrgetter("_version")


class Matrix(Structure):
    """A packed matrix, as `tiles.h` knows it."""

    _fields_ = (
        *((name, c_void_p) for name in ("tiles", "bias", "scale")),
        *((name, c_int64) for name in ("pairs", "steps", "bits")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled C code, or None on a machine that cannot run it."""
    if not cpu_flags() >= NEEDED:
        return None
    lib = load("kernels.c")
    if lib is None:
        return None
    lib.workspace_bytes.restype = lib.sampling_bytes.restype = c_int64
    if lib.prepare() != 0:
        _log.warning("The system does not lend the matrix unit: PyTorch computes instead, slower")
        return None
    return lib


def zeros(size: int) -> Tensor:
    """`size` bytes of zeros at the beginning of a page; memory is taken when they are first touched, on large pages
    where the system has them, because what is read in one go is read a third faster then."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # what is shared gets no large pages
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= LARGE:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)


def trim() -> None:
    """Have the C library give free memory back to the system, where it can: it keeps what lay in small pieces."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Tiles:
    """Zeroed memory for pairs of tiles."""

    def __init__(self, pairs: int, pair_bytes: int = STEP) -> None:
        self.memory = zeros(pair_bytes * pairs + STEP * STEPS_AHEAD)
        self.address = self.memory.data_ptr()


def pack(tiles: int, steps: int, first: int, stride: int, weight: Tensor, group: int, group_tiles: int) -> None:
    """Write a matrix [rows, width] as tiles `first`, `first + stride`, … at an address.

    Args:
        steps: of 32 inputs.
        group: rows after which a new tile begins (a head).
        group_tiles: tiles that a group takes.
    """
    lib = library()
    assert lib is not None
    weight = weight.detach().to(torch.bfloat16).contiguous()
    rows, width = weight.shape
    numbers = (steps, first, stride)
    lib.pack(
        c_void_p(tiles),
        *(c_int64(n) for n in numbers),
        c_void_p(weight.data_ptr()),
        *(c_int64(n) for n in (rows, width, group, group_tiles)),
    )


def steps_of(width: int) -> int:
    """Steps along `width` inputs."""
    return -(-width // 32)


def stamp_of(parameters: Sequence[Tensor]) -> tuple[int, ...]:
    """Differs when one of them was changed in place or moved."""
    return (*map(_VERSION, parameters), *map(Tensor.data_ptr, parameters))  # several times a loop's speed
