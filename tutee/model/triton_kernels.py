"""What a decode step does between its matrix products, on a CUDA device: four small kernels in Triton.

A step with one new token a sequence is bound by reading weights and by starting kernels, so everything between two
products is one kernel: residual add and norm; head norms, rotation and the write into the cache; attention straight
over the paged cache; the gate of the feed-forward. Numbers are float32 inside, bfloat16 in memory, the residual stream
float32. Knows tensors and strides; nothing of sequences or of graphs (`engine/cuda_graphs.py`).

Imported only where Triton is (it comes with PyTorch's CUDA builds).

Axes: T rows (one a sequence), D hidden, H query heads, G kv heads, R = H / G, K head dim, F feed-forward width,
S cached tokens, P parts that a row's cached tokens are split into.
"""

# mypy: ignore-errors

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

KEYS_AT_ONCE = 64
LEAST_HEADS = 16
"""Rows that a tensor-core product has at least; a kv head's few query heads are padded to it."""


def add_norm(x_TD: Tensor, change_TD: Tensor | None, weight_D: Tensor, eps: float, out_TD: Tensor) -> None:
    """x += change, in place (float32); out = rms_norm(x) * weight, in out's precision."""
    rows, width = x_TD.shape
    _add_norm[(rows,)](
        x_TD, x_TD if change_TD is None else change_TD, weight_D, out_TD, width, eps,
        HAS_CHANGE=change_TD is not None, BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip


def turn_and_store(
    qkv_TXK: Tensor, rotation: tuple[Tensor, Tensor], norms: tuple[Tensor, Tensor] | None, eps: float,
    positions_T: Tensor, slots_T: Tensor, keys_SGK: Tensor, values_SGK: Tensor,
) -> None:  # fmt: skip
    """Turn queries in place; turn keys and write keys and values into their cache slots. `qkv_TXK` is [T, H + 2 G, K].

    Args:
        rotation: cosines and sines, float32 [positions, K / 2].
        norms: weights [K] of the query and the key norm, for models that have them.
    """
    rows, heads, width = qkv_TXK.shape
    kv_heads = keys_SGK.shape[1]
    query_norm, key_norm = norms if norms is not None else (rotation[0], rotation[0])
    _turn_and_store[(rows, heads)](
        qkv_TXK, *rotation, query_norm, key_norm, positions_T, slots_T, keys_SGK, values_SGK, eps,
        H=heads - 2 * kv_heads, G=kv_heads, HALF=width // 2, HAS_NORMS=norms is not None, num_warps=1,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Past:
    """Where each row's cached tokens are.

    Args:
        blocks: block numbers of all rows end to end; row t's begin at `starts_T[t]`.
        contexts_T: cached tokens of each row, the new one included; 0 where there is nothing to see.
        window: how many newest tokens a token sees, itself included; None: all.
    """

    blocks: Tensor
    starts_T: Tensor
    contexts_T: Tensor
    block_size: int
    window: int | None


def attend_paged(
    qkv_TXK: Tensor, keys_SGK: Tensor, values_SGK: Tensor, past: Past, parts: tuple[Tensor, Tensor], out_THK: Tensor
) -> None:
    """Each row's query heads over its own cached tokens, in parts side by side that are joined ("flash decoding").

    Args:
        parts: room for unjoined outputs [T, H, P, K] and their (maximum, sum) [T, H, P, 2], float32.
        out_THK: zeros for rows without a context.
    """
    rows, heads, width = out_THK.shape
    kv_heads, splits = keys_SGK.shape[1], parts[0].shape[2]
    _attend_part[(rows, kv_heads, splits)](
        qkv_TXK, keys_SGK, values_SGK, past.blocks, past.starts_T, past.contexts_T, *parts,
        qkv_TXK.stride(0), width**-0.5, past.window or 0, H=heads, G=kv_heads, K=width, P=splits,
        BLOCK_SIZE=past.block_size, ROWS=max(LEAST_HEADS, triton.next_power_of_2(heads // kv_heads)),
        KEYS=KEYS_AT_ONCE, num_warps=4,
    )  # fmt: skip
    _join_parts[(rows, heads)](*parts, out_THK, K=width, P=splits, PARTS=triton.next_power_of_2(splits), num_warps=1)


def gate(gate_up_TF: Tensor, out_TF: Tensor) -> None:
    """silu(first half) * second half."""
    rows, width = out_TF.shape
    block = 1024
    _gate[(rows, triton.cdiv(width, block))](gate_up_TF, out_TF, width, BLOCK=block, num_warps=4)


def supported(head_dim: int) -> bool:
    """Whether the kernels' blocks fit this head width (a power of two, as Triton's ranges are)."""
    return head_dim >= 16 and head_dim & (head_dim - 1) == 0 and torch.cuda.is_available()


@triton.jit
def _add_norm(x, change, weight, out, width, eps, HAS_CHANGE: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    inside = at < width
    row = tl.program_id(0).to(tl.int64) * width
    values = tl.load(x + row + at, inside, 0.0)
    if HAS_CHANGE:
        values += tl.load(change + row + at, inside, 0.0).to(tl.float32)
        tl.store(x + row + at, values, inside)
    scale = tl.rsqrt(tl.sum(values * values) / width + eps)
    normed = values * scale * tl.load(weight + at, inside, 0.0).to(tl.float32)
    tl.store(out + row + at, normed.to(out.dtype.element_ty), inside)


@triton.jit
def _turn_and_store(
    qkv, cosines, sines, query_norm, key_norm, positions, slots, keys, values, eps,
    H: tl.constexpr, G: tl.constexpr, HALF: tl.constexpr, HAS_NORMS: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half = tl.arange(0, HALF)
    source = qkv + (row * (H + 2 * G) + head) * 2 * HALF
    first = tl.load(source + half).to(tl.float32)
    second = tl.load(source + HALF + half).to(tl.float32)
    if head < H + G:
        if HAS_NORMS:
            scale = tl.rsqrt((tl.sum(first * first) + tl.sum(second * second)) / (2 * HALF) + eps)
            weight = query_norm if head < H else key_norm
            first *= scale * tl.load(weight + half).to(tl.float32)
            second *= scale * tl.load(weight + HALF + half).to(tl.float32)
        angle = tl.load(positions + row).to(tl.int64) * HALF
        cosine, sine = tl.load(cosines + angle + half), tl.load(sines + angle + half)
        first, second = first * cosine - second * sine, second * cosine + first * sine
    target = source
    if head >= H:
        slot = tl.load(slots + row).to(tl.int64)
        if head < H + G:
            target = keys + (slot * G + head - H) * 2 * HALF
        else:
            target = values + (slot * G + head - H - G) * 2 * HALF
    tl.store(target + half, first.to(qkv.dtype.element_ty))
    tl.store(target + HALF + half, second.to(qkv.dtype.element_ty))


@triton.jit
def _attend_part(
    queries, keys, values, blocks, starts, contexts, part_out, part_scale, query_stride, scale, window,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, P: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    row, group, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    R: tl.constexpr = H // G
    context = tl.load(contexts + row)
    first = 0
    if window > 0:
        first = tl.maximum(0, context - window)
    share = tl.cdiv(tl.cdiv(context - first, P), KEYS) * KEYS
    begin = first + part * share
    end = tl.minimum(begin + share, context)
    heads, dims, key_range = tl.arange(0, ROWS), tl.arange(0, K), tl.arange(0, KEYS)
    real = heads < R
    query = tl.load(
        queries + row * query_stride + ((group * R + heads) * K)[:, None] + dims[None, :], real[:, None], 0.0
    )
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, K], tl.float32)
    table = blocks + tl.load(starts + row)
    for at in range(begin, end, KEYS):
        index = at + key_range
        inside = index < end
        block = tl.load(table + index // BLOCK_SIZE, inside, 0).to(tl.int64)
        place = ((block * BLOCK_SIZE + index % BLOCK_SIZE) * G + group) * K
        key = tl.load(keys + place[:, None] + dims[None, :], inside[:, None], 0.0)
        value = tl.load(values + place[:, None] + dims[None, :], inside[:, None], 0.0)
        score = tl.where(inside[None, :], tl.dot(query, tl.trans(key)) * scale, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        shrink = tl.exp(most - higher)
        total = total * shrink + tl.sum(weight, 1)
        out = out * shrink[:, None] + tl.dot(weight.to(value.dtype), value)
        most = higher
    target = (row * H + group * R + heads) * P + part
    tl.store(part_out + target[:, None] * K + dims[None, :], out, real[:, None])
    tl.store(part_scale + target * 2, most, real)
    tl.store(part_scale + target * 2 + 1, total, real)


@triton.jit
def _join_parts(part_out, part_scale, out, K: tl.constexpr, P: tl.constexpr, PARTS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    parts, dims = tl.arange(0, PARTS), tl.arange(0, K)
    most = tl.load(part_scale + (head * P + parts) * 2, parts < P, float("-inf"))
    total = tl.load(part_scale + (head * P + parts) * 2 + 1, parts < P, 0.0)
    weight = tl.where(total > 0, tl.exp(most - tl.max(most, 0)), 0.0)
    outs = tl.load(part_out + (head * P + parts)[:, None] * K + dims[None, :], (parts < P)[:, None], 0.0)
    joined = tl.sum(outs * weight[:, None], 0) / tl.maximum(tl.sum(total * weight, 0), 1e-30)
    tl.store(out + head * K + dims, joined.to(out.dtype.element_ty))


@triton.jit
def _gate(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gated = tl.load(gate_up + row * 2 * width + at, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, inside, 0.0).to(tl.float32)
    tl.store(out + row * width + at, (gated * tl.sigmoid(gated) * up).to(out.dtype.element_ty), inside)
