"""Matrix multiplication in the two precisions, and matrices with one input kept side by side.

float32 is exact: a CPU library may add up a row's products in another order when the batch has another size, so rows go
through in tiles of one fixed size, and a row's result never depends on its company. bfloat16 is fast: matrices that
read the same input are one multiplication, and for small batches the weight is laid out once for the matrix units.

Axes: T tokens, D input width, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 32
PACKED_ROWS = 256
"""Up to this many rows the packed weight is faster (measured: 2.4 times at 1 to 64 rows, no gain at 512)."""


class Projection(nn.Module):
    """Parameters of one matrix, named as in transformers; `SideBySide` multiplies."""

    def __init__(self, width_in: int, width_out: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(width_out, dtype=dtype), requires_grad=False) if bias else None


class SideBySide:
    """Projections of one input.

    In bfloat16 their weights are views of one block of memory, so one multiplication serves all of them while each
    keeps its own name, and an in-place update of a parameter reaches the block. A parameter that is being trained is
    multiplied on its own, because a gradient needs an owner.
    """

    def __init__(self, *parts: Projection) -> None:
        self.parts = parts
        self.widths = [part.weight.shape[0] for part in parts]
        self._block: Tensor | None = None
        self._packed: tuple[tuple[int, ...], Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_block": None, "_packed": None}  # a copy makes its own, for its own parameters

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, sum of the widths], in the input's precision."""
        weights = [part.weight for part in self.parts]
        trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        if x_TD.dtype == torch.float32:
            return _beside([tiled_linear(x_TD, part.weight, part.bias) for part in self.parts])
        if trained:
            return _beside([functional.linear(x_TD, part.weight, part.bias) for part in self.parts])
        bias = self.bias()
        if x_TD.shape[0] <= PACKED_ROWS and not (torch.is_grad_enabled() and x_TD.requires_grad) and _can_pack(x_TD):
            return torch.ops.mkldnn._linear_pointwise(x_TD, self._packed_weight(), bias, "none", [], "")  # type: ignore[no-any-return]
        return functional.linear(x_TD, self.weight(), bias)

    def bias(self) -> Tensor | None:
        """The biases end to end; None where the projections have none."""
        biases = [part.bias for part in self.parts if part.bias is not None]
        return None if not biases else biases[0] if len(biases) == 1 else torch.cat([bias.detach() for bias in biases])

    def weight(self) -> Tensor:
        """The block [O, D]; made, or made again after something (a copy, a move) tore the parameters off it."""
        if len(self.parts) == 1:
            return self.parts[0].weight
        block = self._block
        if block is None or not self._attached(block):
            with torch.inference_mode(False):  # parameters made of inference tensors could not be trained afterwards
                block = torch.cat([part.weight.detach() for part in self.parts])
                for part, view in zip(self.parts, torch.split(block, self.widths), strict=True):
                    part.weight.data = view
            self._block = block
        return block

    def release(self) -> None:
        """Give back the copy laid out for the matrix units; it is made again when it is needed."""
        self._packed = None

    def drop(self) -> None:
        """Give back the weights themselves: only their shapes are left."""
        self._block = self._packed = None
        for part in self.parts:
            part.weight = nn.Parameter(torch.empty_like(part.weight, device="meta"), requires_grad=False)

    def _attached(self, block: Tensor) -> bool:
        views = torch.split(block, self.widths)
        return all(part.weight.data_ptr() == view.data_ptr() for part, view in zip(self.parts, views, strict=True))

    def _packed_weight(self) -> Tensor:
        stamp = tuple(n for part in self.parts for n in (part.weight._version, part.weight.data_ptr()))
        if self._packed is None or self._packed[0] != stamp:
            weight = self.weight()
            stamp = tuple(n for part in self.parts for n in (part.weight._version, part.weight.data_ptr()))
            self._packed = stamp, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 16)
        return self._packed[1]


def tiled_linear(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`functional.linear` in row tiles of one size, the last padded with zeros: exact in the sense of this module."""
    rows = x_TD.shape[0]
    # A fresh, padded copy also fixes the alignment in memory, on which a library's choice of kernel may depend.
    padded = functional.pad(x_TD, (0, 0, 0, -rows % TILE)) if rows % TILE else x_TD.clone()
    tiles = [functional.linear(tile, weight_OD, bias_O) for tile in torch.split(padded, TILE)]
    return _beside(tiles, dim=0)[:rows]


def _beside(parts: list[Tensor], dim: int = -1) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _can_pack(x_TD: Tensor) -> bool:
    # Also false where PyTorch was built without oneDNN.
    return x_TD.device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
