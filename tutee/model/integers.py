"""Weights as small integers, for serving: what "int8" and "int4" mean, and how they lie in memory for the C code.

A row (an output) of a matrix is integers of 8 bits times one scale. In "int4" the integers of 32 neighbouring inputs
are `step * level - offset`, a level of 4 bits; step and offset take a byte each, so a weight takes 4.5 bits, as many as
in Q4_0 of GGUF files. Activations stay numbers: the C code splits them into 16-bit integers
(`integers.h`), whose error is far below that of the weights. Knows nothing of layers.

Axes: O outputs, I inputs, G groups of 32 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tutee.errors import InvalidInput

Precision = Literal["bfloat16", "int8", "int4"]
"""Of the matrices of a decoder that serves."""
GROUP = 32
DEPTH = 64
"""Inputs of a tile of integers."""
BITS: dict[Precision, int] = {"bfloat16": 16, "int8": 8, "int4": 4}
PAIR_BYTES: dict[Precision, int] = {"bfloat16": 2048, "int8": 2048, "int4": 1152}
"""Of two neighbouring tiles: 32 outputs by 32 inputs (bfloat16) or 64."""
LIMIT = 127
TOP = 15
"""The highest level of 4 bits."""
SHRINKS = (0, 1)
"""By how much a step may be smaller than one that reaches a group's ends: the rest comes closer, the ends are cut."""


def check_precision(name: str, dtype: torch.dtype) -> Precision:
    """A serving precision by its name; empty: no integers, which "bfloat16" stands for also where `dtype` is float32.

    Raises:
        InvalidInput: no such precision, or integers for a decoder whose numbers are promised to be exact.
    """
    if name == "":
        return "bfloat16"
    if name not in ("int8", "int4"):
        message = f"precision is {name!r}; it must be int8 or int4, or empty."
        raise InvalidInput(message, param="precision", code="invalid_value")
    if dtype != torch.bfloat16:
        message = f"precision {name} needs dtype bfloat16: float32 is exact, and integers are not."
        raise InvalidInput(message, param="precision", code="invalid_value")
    return "int8" if name == "int8" else "int4"


@dataclass(frozen=True, slots=True)
class Integers:
    """A matrix: `levels` are its integers themselves (8 bits), or 4 bits each with `steps` and `offsets`."""

    scale_O: Tensor
    levels_OI: Tensor
    steps_OG: Tensor | None = None
    offsets_OG: Tensor | None = None

    def values(self) -> Tensor:
        """The integers, float32 [O, I]."""
        levels_OI = self.levels_OI.float()
        if self.steps_OG is None or self.offsets_OG is None:
            return levels_OI
        step_OI, offset_OI = (x.repeat_interleave(GROUP, dim=1).float() for x in (self.steps_OG, self.offsets_OG))
        width = levels_OI.shape[1]
        return step_OI[:, :width] * levels_OI - offset_OI[:, :width]

    def floats(self) -> Tensor:
        """The matrix that these integers stand for, float32 [O, I]."""
        return self.values() * self.scale_O[:, None]


def to_integers(weight_OI: Tensor, precision: Precision) -> Integers:
    """The nearest integers; each row on its own, so matrices may be put together before or after."""
    weight_OI = weight_OI.detach().float()
    scale_O = weight_OI.abs().amax(1) / LIMIT
    x_OI = weight_OI / torch.where(scale_O > 0, scale_O, 1.0)[:, None]
    if precision == "int8":
        return Integers(scale_O, x_OI.round_().to(torch.int8))
    width = x_OI.shape[1]
    x_OGK = functional.pad(x_OI, (0, -width % GROUP)).view(len(x_OI), -1, GROUP)
    levels, steps, offsets = _nearest_levels(x_OGK)
    return Integers(scale_O, levels.flatten(1)[:, :width].contiguous(), steps, offsets)


def _nearest_levels(x_OGK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(levels uint8 [O, G, 32], steps [O, G], offsets [O, G]) of numbers within ±127: of a few steps the best one."""
    low_OG, high_OG = x_OGK.amin(2), x_OGK.amax(2)
    widest_OG = torch.ceil((high_OG - low_OG) / TOP)
    best: tuple[Tensor, ...] | None = None
    for shrink in SHRINKS:
        step_OG = (widest_OG - shrink).clamp_min_(1)
        offset_OG = torch.round(TOP / 2 * step_OG - (low_OG + high_OG) / 2)
        # So that no level leaves a byte.
        offset_OG = torch.minimum(torch.maximum(offset_OG, TOP * step_OG - LIMIT), torch.full_like(step_OG, LIMIT + 1))
        levels = ((x_OGK + offset_OG[..., None]) / step_OG[..., None]).round_().clamp_(0, TOP)
        error_OG = (levels * step_OG[..., None] - offset_OG[..., None] - x_OGK).square_().sum(2)
        if best is None:
            best = error_OG, levels, step_OG, offset_OG
        else:
            better = error_OG < best[0]
            new = (error_OG, levels, step_OG, offset_OG)
            best = tuple(
                torch.where(better if a.ndim == 2 else better[..., None], b, a) for a, b in zip(best, new, strict=True)
            )
    assert best is not None
    return best[1].to(torch.uint8), best[2], best[3]


def tiles(matrix: Integers) -> Tensor:
    """The bytes of a matrix whose outputs are a multiple of 32, as the C code reads them: pairs of tiles of 16 outputs,
    along the inputs first.

    A tile of 8 bits: [16 quads of inputs][16 outputs][4 inputs]. One of 4 bits: step and offset of the first 32 inputs
    [16 outputs] each, the same of the other 32, then [8 quads][16 outputs][4 inputs], the other 32 inputs in the high
    half of a byte.
    """
    outputs, width = matrix.levels_OI.shape
    depth = -(-width // DEPTH)
    levels = functional.pad(matrix.levels_OI, (0, depth * DEPTH - width))
    levels = levels.view(outputs // 32, 2, 16, depth, DEPTH)
    if matrix.steps_OG is None or matrix.offsets_OG is None:
        return _quads_first(levels).flatten()
    halves = levels.view(*levels.shape[:4], 2, GROUP)
    body = _quads_first((halves[..., 0, :] | halves[..., 1, :] << 4).contiguous())
    groups = functional.pad(
        torch.stack((matrix.steps_OG, matrix.offsets_OG), -1), (0, 0, 0, -matrix.steps_OG.shape[1] % 2)
    )
    header = (groups.long() & 255).to(torch.uint8).view(outputs // 32, 2, 16, depth, 4).permute(0, 3, 1, 4, 2)
    return torch.cat((header.flatten(3), body.flatten(3)), dim=3).flatten()


def _quads_first(bytes_PHOSK: Tensor) -> Tensor:
    """[pairs, 2, 16 outputs, steps, K] bytes as [pairs, steps, 2, K / 4, 64]."""
    words = bytes_PHOSK.contiguous().view(torch.int32)
    return words.permute(0, 3, 1, 4, 2).contiguous().view(torch.uint8)
