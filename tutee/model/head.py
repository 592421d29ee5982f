"""Next-token logits in C (`head.h`): a 16-bit copy of the head, exact enough for a choice between tokens; or one of 8
bits, for blocks whose weights are integers.

Largest error of a logit against float64 on the default model 2e-3, where the logits' range is 38 and what bfloat16 in
the blocks before it changes is a hundred times as much; a row's logits never depend on the other rows.

Axes: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import Structure, c_int64, c_void_p

import torch
from torch import Tensor

from tutee.model.matrix_unit import ROWS, STEP, Tiles, library

MAX_WIDTH = 16384
DIGITS = 3


class _Head(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("tiles", "scale", "balance")),
        *((name, c_int64) for name in ("vocabulary", "width", "planes", "threads")),
    )


class NativeHead:
    """The output matrix [V, D] packed for the C code, renewed when it changes.

    Args:
        weight: float32.
        norm: weights of the norm before it: how large each hidden number is on average.
        planes: bytes of a weight, 2 or 1.
    """

    def __init__(self, weight: Tensor, norm: Tensor, planes: int = 2) -> None:
        self._weight, self._norm = weight, norm
        vocabulary, width = weight.shape
        self._width = -(-width // 64) * 64
        self._tiles: Tiles | None = None
        self._scale = torch.zeros(-(-vocabulary // ROWS) * ROWS)
        self._balance = torch.ones(width)
        self._head = _Head(vocabulary=vocabulary, width=width, planes=planes)
        self._stamp: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def logits(self, hidden_TD: Tensor, out: Tensor | None = None) -> Tensor:
        """float32 [T, V], without a gradient; written into the first rows of `out` where that is given."""
        lib = library()
        assert lib is not None
        hidden_TD = hidden_TD.detach().float().contiguous()
        rows, vocabulary = len(hidden_TD), self._head.vocabulary
        logits_TV = torch.empty(rows, vocabulary) if out is None else out[:rows]
        digits = torch.zeros(DIGITS * (rows + ROWS) * self._width, dtype=torch.int8)
        scale = torch.empty(rows + ROWS)
        with self._lock:
            self._renew(lib)
        pointers = (c_void_p(x.data_ptr()) for x in (digits, scale, logits_TV))
        lib.logits(ctypes.byref(self._head), c_void_p(hidden_TD.data_ptr()), c_int64(rows), *pointers)
        return logits_TV

    def release(self) -> None:
        """Give back the packed copy; the next call packs again."""
        with self._lock:
            self._tiles = self._stamp = None

    def _renew(self, lib: ctypes.CDLL) -> None:
        self._head.threads = torch.get_num_threads()
        stamp = self._weight._version, self._weight.data_ptr()
        if stamp == self._stamp:
            return
        if self._tiles is None:
            pairs = -(-self._head.vocabulary // ROWS) * self._width // 64
            self._tiles = Tiles(pairs, self._head.planes * STEP // 2)
        with torch.no_grad():
            weight_VD = self._weight.detach().float().contiguous()
            self._balance = balance(weight_VD, self._norm.detach())
        self._head.tiles, self._head.scale = self._tiles.address, self._scale.data_ptr()
        self._head.balance = self._balance.data_ptr()
        lib.pack_head(ctypes.byref(self._head), c_void_p(weight_VD.data_ptr()))
        self._stamp = stamp


def balance(weight_VD: Tensor, norm_D: Tensor) -> Tensor:
    """By what each column of a head is multiplied before it is rounded, and its hidden number divided: [D]."""
    spread_D = weight_VD.float().square().mean(0).sqrt_()
    balance_D = (norm_D.float().abs() / spread_D).sqrt_().nan_to_num_(1.0, 1.0, 1.0)
    balance_D[balance_D == 0] = 1.0
    return balance_D
