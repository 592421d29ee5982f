"""Memory that training uses again in every pass: taken once, in one piece, on large pages where the system has them.

What a pass keeps for its backward pass is as large as the model. From `malloc` it may come as fresh pages of 4 KiB,
and the system's work for them takes as long as the products that fill them (in a loop of one product: 0.9 TFLOP/s into
fresh memory, 1.9 into memory that is there). Knows sizes, not what is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutee.model.matrix_unit import zeros

LINE = 64
"""Bytes of a cache line, at which every tensor begins."""

_free: list[Workspace] = []
"""Those that no pass uses. A pass takes one for itself, so two passes at a time never share."""


class Workspace:
    """Tensors side by side in one block of memory; they are void once it is given back.

    Args:
        size: bytes of all of them, each rounded up by `room_for`. Memory that is never used is never taken.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = zeros(size + LINE)
        self._used = 0

    def empty(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """The next tensor; its numbers are whatever was there."""
        size = math.prod(shape) * dtype.itemsize
        begin, self._used = self._used, self._used + room_for(size)
        if self._used > self.size:
            raise MemoryError(f"{self._used} bytes are wanted of a workspace of {self.size}")
        return self._memory[begin : begin + size].view(dtype).view(shape)


def empty(room: Workspace | None, like: Tensor, *shape: int) -> Tensor:
    """A tensor of the kind of `like`, in `room` if there is one."""
    return like.new_empty(shape) if room is None else room.empty(*shape, dtype=like.dtype)


def room_for(size: int) -> int:
    """Bytes that a tensor of `size` bytes takes."""
    return -(-size // LINE) * LINE


def borrow(size: int) -> Workspace:
    """A workspace of at least `size` bytes, for one pass alone. Who never gives it back just lets it go."""
    while _free:
        found = _free.pop()
        if found.size >= size:
            return found
        del found  # gone before the larger one is made
    return Workspace(size)


def give_back(workspace: Workspace) -> None:
    """The next pass may have it."""
    workspace._used = 0
    _free.append(workspace)


def release() -> None:
    """Gives the memory of all that are free to the system; the next pass takes it again."""
    _free.clear()
