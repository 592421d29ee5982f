"""Matrices with one input, and what a layout's adapters add to them.

Axes: T tokens, D input width, O outputs of all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.matmul import Projection, SideBySide, tiled_linear


class Matrices:
    """Named matrices with one input and what adapters add to them: every matrix of the blocks goes through here."""

    def __init__(self, prefix: str, **parts: Projection) -> None:
        self.names = tuple(f"{prefix}.{name}" for name in parts)
        self.base = SideBySide(*parts.values())
        self.widths = tuple(self.base.widths)

    def __call__(self, x_TD: Tensor, layout: Layout) -> Tensor:
        out_TO = self.base(x_TD)
        for lora, rows in layout.adapters:
            if isinstance(rows, slice) and rows.indices(len(x_TD)) == (0, len(x_TD), 1):
                out_TO = self._adapted(lora, x_TD, out_TO)
            else:
                changed = self._adapted(lora, x_TD[rows], out_TO[rows])
                index = rows if isinstance(rows, Tensor) else torch.arange(len(x_TD), device=x_TD.device)[rows]
                out_TO = out_TO.index_copy(0, index, changed)
        return out_TO

    def _adapted(self, lora: Lora, x_TD: Tensor, out_TO: Tensor) -> Tensor:
        if x_TD.dtype == torch.float32:
            return self._adapted_exactly(lora, x_TD, out_TO)
        matrices = lora.matrices(self.names, self.widths, x_TD.dtype)
        if matrices is None:
            return out_TO
        a, b = matrices
        return torch.addmm(out_TO, functional.linear(x_TD, a), b.t())

    def _adapted_exactly(self, lora: Lora, x_TD: Tensor, out_TO: Tensor) -> Tensor:
        parts = list(torch.split(out_TO, self.base.widths, dim=-1))
        for i, (name, width) in enumerate(zip(self.names, self.widths, strict=True)):
            matrices = lora.matrices((name,), (width,), x_TD.dtype)
            if matrices is not None:
                parts[i] = parts[i] + tiled_linear(tiled_linear(x_TD, matrices[0]), matrices[1])
        return torch.cat(parts, dim=-1)
