"""`sampler.sample` in C (`model/sampling.h`), for logits on a CPU that can: the same rules, one call for all rows.

A row's token depends on its own logits, parameters, seed and position only. Given the same logits and seed it is the
token that `sampler.py` draws, but for draws that fall within a float's rounding of the border of two tokens.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_int64, c_void_p

import numpy as np
import torch
from torch import Tensor

from tutee.engine.request import TopLogprobs
from tutee.engine.sampler import Masks, Sampled, SamplerState, adjust
from tutee.model.matrix_unit import library


class _Sampling(Structure):
    _fields_ = (
        ("logits", c_void_p),
        *((name, c_int64) for name in ("rows", "vocabulary", "threads")),
        *((name, c_void_p) for name in ("temperature", "floor_weight", "floor_logit", "top_p", "key", "drawn")),
        *((name, c_void_p) for name in ("workspace", "tokens", "normaliser", "allowed")),
    )


@torch.no_grad()
def sample(logits_BV: Tensor, states: Sequence[SamplerState], masks: Masks | None = None) -> Sampled:
    """As `sampler.sample`: choose one token a row, of those that `masks` allow.

    `logits_BV` (float32, contiguous) is overwritten.
    """
    reported = [row for row, state in enumerate(states) if state.params.logprobs is not None]
    normaliser_B = normalisers(logits_BV) if reported else None
    # A reported log-prob is the model's own: of the logits before penalties and biases.
    own = {row: logits_BV[row].clone() for row in reported if states[row].adjusts}
    top: list[TopLogprobs] = [()] * len(states)
    logprobs: list[float | None] = [None] * len(states)
    if normaliser_B is not None:
        for row in reported:
            count = states[row].params.logprobs
            if count:
                best = logits_BV[row].topk(min(count, logits_BV.shape[1]))
                values = (best.values.double() - normaliser_B[row]).tolist()
                top[row] = tuple(zip(best.indices.tolist(), values, strict=True))
    adjust(logits_BV, states)
    if masks is not None:
        _forbid(logits_BV, masks)
    tokens_B = _draw(logits_BV, states)
    if normaliser_B is not None:
        chosen_B = logits_BV.gather(1, tokens_B.clamp_min(0).unsqueeze(1)).squeeze(1)
        values = (chosen_B.double() - normaliser_B).tolist()
        for row in reported:
            logprobs[row] = values[row]
        for row, own_V in own.items():
            logprobs[row] = float(own_V[tokens_B[row].clamp_min(0)].double() - normaliser_B[row])
    return Sampled(tokens_B.tolist(), logprobs, top)


def normalisers(logits_BV: Tensor) -> Tensor:
    """Log of the sum of exp(logit), float64 [B]."""
    normaliser_B = torch.empty(len(logits_BV), dtype=torch.float64)
    call = _Sampling(
        logits=logits_BV.data_ptr(),
        rows=len(logits_BV),
        vocabulary=logits_BV.shape[1],
        threads=torch.get_num_threads(),
        normaliser=normaliser_B.data_ptr(),
    )
    lib = library()
    assert lib is not None
    lib.normalise(ctypes.byref(call))
    return normaliser_B


def _forbid(logits_BV: Tensor, masks: Masks) -> None:
    """Minus infinity for what the masks do not allow."""
    allowed = np.zeros(len(logits_BV), dtype=np.uint64)
    allowed[masks.rows] = masks.allowed_RW.ctypes.data + masks.allowed_RW.strides[0] * np.arange(len(masks.rows))
    call = _Sampling(
        logits=logits_BV.data_ptr(),
        rows=len(logits_BV),
        vocabulary=logits_BV.shape[1],
        threads=torch.get_num_threads(),
        allowed=allowed.ctypes.data,
    )
    lib = library()
    assert lib is not None
    lib.forbid(ctypes.byref(call))


def _draw(logits_BV: Tensor, states: Sequence[SamplerState]) -> Tensor:
    """A token a row, int64 [B]; -1 where the logits are not finite."""
    lib = library()
    assert lib is not None
    vocabulary, threads = logits_BV.shape[1], torch.get_num_threads()
    params = [state.params for state in states]
    least_logit = np.full(len(states), -np.inf, dtype=np.float32)
    for row, state in enumerate(states):
        if 0 < state.params.top_k < vocabulary and state.temperature > 0:
            least_logit[row] = logits_BV[row].topk(state.params.top_k).values[-1]
    arrays = (
        np.array([state.temperature for state in states], dtype=np.float32),
        np.array([one.min_p for one in params], dtype=np.float32),
        least_logit,
        np.array([one.top_p for one in params], dtype=np.float32),
        np.array([state.key for state in states], dtype=np.uint64),
        np.array([state.drawn for state in states], dtype=np.uint64),
    )
    tokens_B = torch.empty(len(states), dtype=torch.int64)
    workspace = torch.empty(threads * int(lib.sampling_bytes(c_int64(vocabulary))), dtype=torch.uint8)
    call = _Sampling(
        logits_BV.data_ptr(),
        len(states),
        vocabulary,
        threads,
        *(array.ctypes.data for array in arrays),
        workspace.data_ptr(),
        tokens_B.data_ptr(),
        None,
    )
    lib.draw(ctypes.byref(call))
    return tokens_B
