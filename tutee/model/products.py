"""Products of bfloat16 matrices for training: many rows, an adapter's part in the same pass, gradients in float32.

On AMX matrix units `matmul.c` does the work, at twice the speed of PyTorch's library (measured at 990 rows: 2.2 against
1.1 TFLOP/s on one core); elsewhere PyTorch does. Knows nothing of layers.

Axes: T rows, I inputs, O outputs, A and B the widths of two matrices with the same rows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tutee.model import compiled, fused
from tutee.model.workspace import Workspace, empty

STEP = 32
"""Widths are multiples of this in the C code."""


class _Factor(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("stride", ctypes.c_long),
        ("matrix", ctypes.c_void_p),
        ("matrix_stride", ctypes.c_long),
        ("width", ctypes.c_long),
    )


Factors = Sequence[tuple[Tensor, Tensor]]
"""One or two of (x [T, I], matrix), each with its own I, whose products are summed."""


def product(factors: Factors, transposed: bool, bias_O: Tensor | None = None, room: Workspace | None = None) -> Tensor:
    """Sum of x · matrix' (`transposed`: matrices are [O, I], as weights) or x · matrix ([I, O]), plus bias; [T, O].

    Args:
        room: where the result may be laid, here and below.
    """
    library = _knows(factors)
    if library is None:
        return _product(factors, transposed, bias_O)
    (x_TI, matrix), *_ = factors
    out_TO = empty(room, x_TI, len(x_TI), matrix.shape[0 if transposed else 1])
    library.product(*_described(factors, transposed, bias_O), _at(out_TO), *_sizes(out_TO))
    return out_TO


def add_product(into_TO: Tensor, factors: Factors, bias_O: Tensor | None = None) -> None:
    """`into_TO` (float32) += x · matrix' … + bias, in place and, in C, without rounding the product first."""
    library = _knows(factors)
    if library is None:
        into_TO += _product(factors, True, bias_O)
    else:
        library.add_product(*_described(factors, True, bias_O), _at(into_TO), *_sizes(into_TO))


def gated_product(
    factors: Factors, bias_O: Tensor | None = None, room: Workspace | None = None
) -> tuple[Tensor, Tensor]:
    """(gate and what it opens side by side [T, O], silu(gate) times that [T, O / 2]), of x · matrix' … + bias."""
    library = _knows(factors)
    (x_TI, matrix), *_ = factors
    if library is None or len(matrix) % STEP:
        out_TO = product(factors, True, bias_O, room)
        return out_TO, fused.gated(out_TO)
    out_TO = empty(room, x_TI, len(x_TI), len(matrix))
    gated = x_TI.new_empty(len(x_TI), len(matrix) // 2)
    factors_of, count, _, bias = _described(factors, True, bias_O)
    library.gated_product(factors_of, count, bias, _at(out_TO), _at(gated), *_sizes(out_TO))
    return out_TO, gated


def _product(factors: Factors, transposed: bool, bias_O: Tensor | None) -> Tensor:
    (x_TI, matrix), *_ = factors
    out_TO = functional.linear(x_TI, matrix if transposed else matrix.t(), bias_O)
    for more_TI, more in factors[1:]:
        out_TO.addmm_(more_TI, more.t() if transposed else more)
    return out_TO


def gradient(left_TA: Tensor, right_TB: Tensor, into_AB: Tensor | None = None, add: bool = True) -> Tensor:
    """left' · right, float32 [A, B]: the gradient of a matrix whose outputs' is `left` and whose inputs are `right`.

    Args:
        into_AB: float32, contiguous: it is added there, or written, and that is returned.
    """
    A, B = left_TA.shape[1], right_TB.shape[1]
    library = _library(left_TA, right_TB)
    if library is None or A % STEP or B % STEP:
        out_AB = (left_TA.t() @ right_TB).float()
        return out_AB if into_AB is None else into_AB.add_(out_AB) if add else into_AB.copy_(out_AB)
    out_AB = torch.empty(A, B) if into_AB is None else into_AB
    left, right = (
        (ctypes.c_void_p(x.data_ptr()), ctypes.c_long(x.stride(0)), ctypes.c_long(x.shape[1]))
        for x in (left_TA, right_TB)
    )
    rows, adds = ctypes.c_long(len(left_TA)), ctypes.c_int(add and into_AB is not None)
    library.gradient(*left, *right, rows, _at(out_AB), ctypes.c_long(B), adds)
    return out_AB


def _knows(factors: Factors) -> ctypes.CDLL | None:
    """The C code where it knows these factors."""
    fits = all(x.shape[1] % STEP == 0 for x, _ in factors)
    return _library(*(tensor for pair in factors for tensor in pair)) if fits else None


def _described(factors: Factors, transposed: bool, bias_O: Tensor | None) -> tuple[Any, ...]:
    """The first arguments of every product."""
    described = (_Factor * len(factors))(
        *(_Factor(x.data_ptr(), x.stride(0), m.data_ptr(), m.stride(0), x.shape[1]) for x, m in factors)
    )
    if bias_O is None:
        return described, ctypes.c_long(len(factors)), ctypes.c_int(transposed), None
    bias = (ctypes.c_float * len(bias_O))(*bias_O.tolist())
    return described, ctypes.c_long(len(factors)), ctypes.c_int(transposed), bias


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _sizes(x_TO: Tensor) -> tuple[ctypes.c_long, ctypes.c_long]:
    return ctypes.c_long(x_TO.shape[0]), ctypes.c_long(x_TO.shape[1])


def _library(*tensors: Tensor) -> ctypes.CDLL | None:
    """The C code where it knows these tensors: bfloat16 on the CPU, rows contiguous."""
    known = all(x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.stride(1) == 1 for x in tensors)
    return compiled.load_amx("matmul.c") if known else None
