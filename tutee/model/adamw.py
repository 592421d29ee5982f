"""One AdamW step (Loshchilov and Hutter 2019, arXiv 1711.05101) of one tensor: compiled C, or PyTorch in its place.

In C it is one pass over memory, which also writes the bfloat16 copy that the network multiplies with. Moments may be
bfloat16: they are then rounded at random, up or down as often as they lie nearer, because rounding to the nearest would
lose what changes them by less than 1/256 of themselves, and a mean of many gradients is made of just that. The dice are
a function of (element, step), so a run that is taken up goes on bit for bit. Knows no names, groups or schedules.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tutee.model import compiled

FLAGS = ("-fopenmp", "-fno-trapping-math", "-fno-signed-zeros")
_32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rates:
    """What one step of all tensors has in common. `number` counts from 1."""

    number: int
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    clip: float = 1.0
    """What gradients are multiplied by."""


class _Rates(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_float) for name in ("clip", "decay", "rate", "beta1", "beta2", "root", "eps")),
        ("seed", ctypes.c_uint32),
    )


def step(
    parameter: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    rates: Rates,
    weight_decay: float = 0.0,
    copy: Tensor | None = None,
) -> None:
    """Moves `parameter` (float32), both `moments` (float32 or bfloat16) and `copy` (bfloat16) in place."""
    beta1, beta2 = rates.betas
    rate = rates.learning_rate / (1 - beta1**rates.number)
    root = 1 / math.sqrt(1 - beta2**rates.number)
    decay = 1 - rates.learning_rate * weight_decay
    first, second = moments
    tensors = [parameter, gradient, first, second, *([] if copy is None else [copy])]
    library = compiled.load("adamw.c", *FLAGS) if all(_plain(x) for x in tensors) else None
    if library is not None:
        function = library.adamw if first.dtype == torch.float32 else library.adamw_bfloat16
        numbers = _Rates(rates.clip, decay, rate, beta1, beta2, root, rates.eps, _seed(rates.number))
        function(*map(_at, (*tensors[:4], copy)), ctypes.byref(numbers), ctypes.c_long(parameter.numel()))
        return
    gradient = gradient * rates.clip
    new_first = first.float().lerp(gradient, 1 - beta1)
    new_second = second.float() * beta2 + gradient.square() * (1 - beta2)
    parameter.mul_(decay).sub_(rate * new_first / (new_second.sqrt() * root + rates.eps))
    if first.dtype == torch.float32:
        first.copy_(new_first)
        second.copy_(new_second)
    else:
        random = _dice(parameter, rates.number)
        first.copy_(_rounded_randomly(new_first, random & 0xFFFF))
        second.copy_(_rounded_randomly(new_second, random >> 16))
    if copy is not None:
        copy.copy_(parameter)


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous() and type(x.data) is Tensor


def _at(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _seed(number: int) -> int:
    return number * 0x632BE5AB & _32


def _dice(like: Tensor, number: int) -> Tensor:
    """32 bits for every element that look random: those of `adamw.c`."""
    x = (torch.arange(like.numel(), device=like.device) * 0x9E3779B1 + _seed(number)) & _32
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _32
    return (x ^ (x >> 16)).view(like.shape)


def _rounded_randomly(x: Tensor, random: Tensor) -> Tensor:
    """To bfloat16, up or down as often as it lies nearer; `random` has 16 bits of dice."""
    bits = x.view(torch.int32) + random.int()
    return (bits & -0x10000).view(torch.float32).bfloat16()
