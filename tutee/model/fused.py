"""Elementwise parts of the bfloat16 training pass, each in one pass over memory: compiled C, or PyTorch in its place.

Every function takes any device and any of float32 and bfloat16 in `[T, ...]` activations, and computes in float32. On a
CPU, in bfloat16, `training.c` does the work (12 times as fast as one operator after another); elsewhere, and where no C
compiler is at hand, the PyTorch below does. Knows nothing of layers or of gradients as a whole.

Axes: T tokens, D width of a row, F feed-forward width, H heads, K head dim.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from tutee.model import compiled
from tutee.model.workspace import Workspace

# Sums may be reordered, so that loops become vector code; infinities and NaN keep their meaning.
FLAGS = ("-fopenmp", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")


def _native(*tensors: Tensor) -> ctypes.CDLL | None:
    """The C library where it knows these activations."""
    plain = all(x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.is_contiguous() for x in tensors)
    return compiled.load("training.c", *FLAGS) if plain else None


def _at(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def norm(
    x_TD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype, room: Workspace | None = None
) -> tuple[Tensor, Tensor]:
    """(x · scale · weight in `dtype`, scale [T] = 1 / rms(x)); laid in `room` if there is one."""
    if room is not None:
        y_TD, scale_T = room.empty(*x_TD.shape, dtype=dtype), room.empty(len(x_TD), dtype=torch.float32)
    else:
        y_TD = torch.empty(x_TD.shape, dtype=dtype, device=x_TD.device)
        scale_T = torch.empty(len(x_TD), device=x_TD.device)
    library = _native(y_TD)
    if library is not None:
        library.norm(_at(x_TD), _at(weight_D), ctypes.c_float(eps), _at(y_TD), _at(scale_T), *_sizes(x_TD))
        return y_TD, scale_T
    torch.rsqrt(x_TD.square().mean(-1) + eps, out=scale_T)
    return y_TD.copy_(x_TD * scale_T[:, None] * weight_D), scale_T


def norm_backward(dy_TD: Tensor, y_TD: Tensor, scale_T: Tensor, weight_D: Tensor, dx_TD: Tensor) -> Tensor:
    """Adds to `dx_TD` (float32) the gradient that `norm`'s y passes to x; returns the sum in dy's precision.

    The normed x is y / weight; where a weight is 0 its x is not known any more and counts as 0.
    """
    rounded_TD = torch.empty_like(dy_TD)
    library = _native(dy_TD, y_TD)
    if library is not None:
        library.norm_backward(
            _at(dy_TD), _at(y_TD), _at(scale_T), _at(weight_D), _at(dx_TD), _at(rounded_TD), *_sizes(y_TD)
        )
        return rounded_TD
    normed_TD = _normed(y_TD, weight_D)
    mean_T1 = (dy_TD.float() * y_TD.float()).mean(-1, keepdim=True)
    dx_TD += scale_T[:, None] * (dy_TD.float() * weight_D - normed_TD * mean_T1)
    return rounded_TD.copy_(dx_TD)


def norm_weight_gradient(dy_TD: Tensor, y_TD: Tensor, weight_D: Tensor) -> Tensor:
    """Gradient of the weight [D] that `norm` made y with, float32."""
    library = _native(dy_TD, y_TD)
    if library is not None:
        out_D = torch.empty_like(weight_D)
        library.norm_weight_gradient(_at(dy_TD), _at(y_TD), _at(weight_D), _at(out_D), *_sizes(y_TD))
        return out_D
    return (dy_TD.float() * _normed(y_TD, weight_D)).sum(0)


def _normed(y_TD: Tensor, weight_D: Tensor) -> Tensor:
    """x / rms(x) from what `norm` made of it, float32."""
    return torch.where(weight_D == 0, 0.0, y_TD.float() / weight_D)


def rotate(
    x_TX: Tensor, heads: int, positions_T: Tensor, cosines_PK: Tensor, sines_PK: Tensor, back: bool = False
) -> None:
    """Turns the first `heads` heads of each row by its position, in place; `back` turns the other way."""
    half = cosines_PK.shape[1]
    sign = -1.0 if back else 1.0
    library = _native(x_TX)
    if library is not None:
        sizes = (ctypes.c_long(n) for n in (*x_TX.shape, heads, half))
        library.rotate(_at(x_TX), _at(positions_T), _at(cosines_PK), _at(sines_PK), ctypes.c_float(sign), *sizes)
        return
    turned = x_TX[:, : heads * 2 * half].view(len(x_TX), heads, 2, half)
    first, second = turned[:, :, 0].float(), turned[:, :, 1].float()
    cosine, sine = cosines_PK[positions_T, None], sign * sines_PK[positions_T, None]
    turned[:, :, 0] = (first * cosine - second * sine).to(x_TX.dtype)
    turned[:, :, 1] = (second * cosine + first * sine).to(x_TX.dtype)


def gated(gate_up_TX: Tensor) -> Tensor:
    """silu(gate) · up [T, F] of [T, 2 F]."""
    rows, double = gate_up_TX.shape
    out_TF = gate_up_TX.new_empty(rows, double // 2)
    library = _native(gate_up_TX)
    if library is not None:
        library.gated(_at(gate_up_TX), _at(out_TF), *_sizes(out_TF))
        return out_TF
    gate_TF, up_TF = gate_up_TX.float().chunk(2, dim=-1)
    return out_TF.copy_(functional.silu(gate_TF) * up_TF)


def gated_backward(gate_up_TX: Tensor, d_out_TF: Tensor) -> None:
    """In place: `gate_up_TX` becomes its own gradient, `d_out_TF` what `gated` had made."""
    library = _native(gate_up_TX, d_out_TF)
    if library is not None:
        library.gated_backward(_at(gate_up_TX), _at(d_out_TF), *_sizes(d_out_TF))
        return
    gate_TF, up_TF = gate_up_TX.float().chunk(2, dim=-1)
    d_TF, sigmoid_TF = d_out_TF.float(), torch.sigmoid(gate_TF)
    swish_TF = gate_TF * sigmoid_TF
    d_out_TF.copy_(swish_TF * up_TF)
    d_gate_TF = d_TF * up_TF * (sigmoid_TF + swish_TF * (1 - sigmoid_TF))
    gate_up_TX.copy_(torch.cat((d_gate_TF, d_TF * swish_TF), dim=-1))


def _sizes(x_TD: Tensor) -> tuple[ctypes.c_long, ctypes.c_long]:
    return ctypes.c_long(x_TD.shape[0]), ctypes.c_long(x_TD.shape[1])
