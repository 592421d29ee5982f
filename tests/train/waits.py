"""Counts how often Python asks a tensor for its numbers: on an accelerator each time would be a wait for everything
that it was told to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

DEPENDENT = {
    "_local_scalar_dense",  # item(), bool(), float(), int()
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
    "is_nonzero",
}
"""Operations whose result, or its shape, must be known on the host."""


class Waits(TorchDispatchMode):
    """`count` since it was entered, and in `said` by what."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    @property
    def count(self) -> int:
        return len(self.said)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in DEPENDENT or (name in ("index", "index_put_", "index_put") and _is_mask(args[1])):
            self.said.append(name)
        return func(*args, **(kwargs or {}))


def _is_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def _on_host(number: torch.Tensor) -> int:
    with _disable_current_modes():
        return int(number)


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """What is inside, as on an accelerator: `told` believes, and `tolist`, `numpy` and `cpu` count too."""
    waits = Waits()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(torch.Tensor, name)

        def ask(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            waits.said.append(name)
            return original(tensor, *args, **kwargs)

        return ask

    with monkeypatch.context() as patch:
        for module in ("dpo", "kto", "policy_loss", "reward"):
            patch.setattr(f"tutee.train.{module}.told", lambda mask: False, raising=False)
        # The optimizer counts its steps in tensors that are on the host wherever the weights are.
        patch.setattr("tutee.train.optimizers.int", _on_host, raising=False)
        for name in ("tolist", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, counted(name))
        with waits:
            yield waits
