"""Where the gradient of a parameter goes when a pass makes it by hand: straight to where it is added up.

Without a receiver a gradient is handed to autograd, like any other. With one it is written into, or added to, the
`.grad` of a float32 master: never rounded, and never a second tensor of its size. Places for gradients can be one piece
of memory. Knows neither passes nor optimizers.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tutee.model.workspace import Workspace, room_for


class Places:
    """Memory for the gradients of some float32 tensors, in one piece, taken when the first of them comes."""

    def __init__(self, masters: Mapping[str, Tensor]) -> None:
        self._shapes = {name: tuple(master.shape) for name, master in masters.items()}
        self._found: dict[str, Tensor] = {}

    def of(self, name: str) -> Tensor:
        """The place of one; its numbers are whatever was there."""
        if not self._found:
            room = Workspace(sum(room_for(4 * math.prod(shape)) for shape in self._shapes.values()))
            self._found = {key: room.empty(*shape, dtype=torch.float32) for key, shape in self._shapes.items()}
        return self._found[name]

    def release(self) -> None:
        """Gives the memory back as soon as no `.grad` lies there any more."""
        self._found = {}


class Receiver:
    """Takes the gradients of one parameter for its master, as long as that lives."""

    def __init__(self, master: Tensor, places: Places | None, name: str) -> None:
        self._master = weakref.ref(master)
        self._places = None if places is None else weakref.ref(places)
        self._name = name

    @property
    def master(self) -> Tensor | None:
        return self._master()

    def open(self) -> tuple[Tensor, bool]:
        """(the master's `.grad`, whether there is something in it to be added to)."""
        master = self._master()
        assert master is not None
        if master.grad is not None:
            return master.grad, True
        places = None if self._places is None else self._places()
        master.grad = torch.empty_like(master) if places is None else places.of(self._name)
        return master.grad, False

    def add(self, gradient: Tensor) -> None:
        """One that was made elsewhere."""
        place, add = self.open()
        (place.add_ if add else place.copy_)(gradient)


def receiver_of(parameter: Tensor) -> Receiver | None:
    """Who takes its gradients; None: autograd does."""
    receiver: Receiver | None = getattr(parameter, "receiver", None)
    return None if receiver is None or receiver.master is None else receiver


def send_gradient(parameter: Tensor, master: Tensor, places: Places | None = None, name: str = "") -> None:
    """From now on gradients of a parameter that a pass makes by hand go to its master's `.grad` (it may be its own).

    For as long as the master lives; a parameter with another master gets no `.grad` of its own.

    Args:
        places: where the master's `.grad` lies under that name, as long as they live; None: in memory of its own.
    """
    parameter.receiver = Receiver(master, places, name)  # type: ignore[attr-defined]


def embedding(tokens_T: Tensor, table_VD: Tensor) -> Tensor:
    """Rows of a table; its gradient touches those rows alone where the table has a receiver."""
    if receiver_of(table_VD) is None or not table_VD.requires_grad:
        return functional.embedding(tokens_T, table_VD)
    return _Embedding.apply(table_VD, tokens_T)  # type: ignore[no-any-return,no-untyped-call]


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_VD: Tensor, tokens_T: Tensor) -> Tensor:
        ctx.table_VD, ctx.tokens_T = table_VD, tokens_T
        return table_VD[tokens_T]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        receiver = receiver_of(ctx.table_VD)
        assert receiver is not None
        place, add = receiver.open()
        with torch.no_grad():
            (place if add else place.zero_()).index_add_(0, ctx.tokens_T, gradients[0])
        return None, None
