"""The decode kernels against plain torch, in Triton's interpreter: no GPU needed, only Triton itself."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it comes with PyTorch's CUDA builds)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run the kernels without a GPU", allow_module_level=True)

from torch.nn import functional

from tutee.model import triton_kernels as kernels
from tutee.model.rope import rotate


def test_residual_add_and_norm() -> None:
    torch.manual_seed(0)
    x, change, weight = torch.randn(3, 96), torch.randn(3, 96), torch.rand(96) + 0.5
    out, added = torch.empty(3, 96), x + change
    kernels.add_norm(x, change, weight, 1e-5, out)
    torch.testing.assert_close(x, added)
    torch.testing.assert_close(out, functional.rms_norm(added, (96,), weight, 1e-5))
    kernels.add_norm(x, None, weight, 1e-5, out)
    torch.testing.assert_close(x, added)


@pytest.mark.parametrize("normed", [False, True])
def test_heads_are_turned_and_stored(normed: bool) -> None:
    torch.manual_seed(0)
    rows, heads, kv_heads, width = 3, 4, 2, 32
    qkv = torch.randn(rows, heads + 2 * kv_heads, width)
    angles = torch.rand(10, width // 2)
    positions, slots = torch.tensor([0, 7, 3], dtype=torch.int32), torch.tensor([5, 1, 9], dtype=torch.int32)
    keys, values = torch.zeros(12, kv_heads, width), torch.zeros(12, kv_heads, width)
    norms = (torch.rand(width) + 0.5, torch.rand(width) + 0.5) if normed else None
    turned, expected_values = qkv[:, : heads + kv_heads].clone(), qkv[:, heads + kv_heads :].clone()
    if norms is not None:
        turned[:, :heads] = functional.rms_norm(turned[:, :heads], (width,), norms[0], 1e-6)
        turned[:, heads:] = functional.rms_norm(turned[:, heads:], (width,), norms[1], 1e-6)
    at = positions.long()
    turned = rotate(turned, angles.cos()[at].unsqueeze(1), angles.sin()[at].unsqueeze(1))
    kernels.turn_and_store(qkv, (angles.cos(), angles.sin()), norms, 1e-6, positions, slots, keys, values)
    torch.testing.assert_close(qkv[:, :heads], turned[:, :heads])
    torch.testing.assert_close(keys[slots.long()], turned[:, heads:])
    torch.testing.assert_close(values[slots.long()], expected_values)
    assert int((keys.abs().sum((1, 2)) > 0).sum()) == rows


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("parts", [1, 3])
def test_attention_over_blocks(window: int | None, parts: int) -> None:
    torch.manual_seed(0)
    heads, kv_heads, width, size = 6, 2, 32, 16
    contexts = [1, 150, 33, 0]
    queries = torch.randn(len(contexts), heads + 2 * kv_heads, width)
    keys, values = torch.randn(20 * size, kv_heads, width), torch.randn(20 * size, kv_heads, width)
    tables = [[3], [7, 2, 9, 11, 4, 17, 6, 12, 1, 15], [5, 19, 8], []]
    starts = torch.tensor([0, 1, 11, 14], dtype=torch.int32)
    blocks = torch.tensor([block for table in tables for block in table], dtype=torch.int32)
    out = torch.full((len(contexts), heads, width), torch.nan)
    room = torch.empty(len(contexts), heads, parts, width), torch.empty(len(contexts), heads, parts, 2)
    lengths = torch.tensor(contexts, dtype=torch.int32)
    kernels.attend_paged(queries, keys, values, kernels.Past(blocks, starts, lengths, size, window), room, out)
    for row, (context, table) in enumerate(zip(contexts, tables, strict=True)):
        if context == 0:
            assert (out[row] == 0).all()
            continue
        slots = [table[t // size] * size + t % size for t in range(max(0, context - (window or context)), context)]
        expected = functional.scaled_dot_product_attention(
            queries[row, :heads].unsqueeze(1),
            keys[slots].transpose(0, 1).repeat_interleave(heads // kv_heads, 0),
            values[slots].transpose(0, 1).repeat_interleave(heads // kv_heads, 0),
        )
        torch.testing.assert_close(out[row], expected.squeeze(1), rtol=1e-4, atol=1e-5)


def test_gate() -> None:
    both, out = torch.randn(2, 3000), torch.empty(2, 1500)
    kernels.gate(both, out)
    torch.testing.assert_close(out, functional.silu(both[:, :1500]) * both[:, 1500:])
