"""Attention over segments, in C and in PyTorch, against autograd through the exact attention; shared prompts."""

import pytest
import torch
from torch import Tensor

from tests.model.families import tiny_config
from tutee.model import compiled
from tutee.model.attention import attend
from tutee.model.layout import Layout
from tutee.model.packed_attention import PackedAttention

SHAPES = [
    ([40], ()),
    ([33, 7, 64, 1, 5], ()),
    ([20, 9, 35, 70, 3, 32, 40, 33], (-1, 0, 0, -1, -1, 4, 4, 4)),
]


def shared(length: int, seed: int, heads: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, heads + 4, 64, generator=generator).flatten(1) * 2
    return x, torch.randn(length, heads * 64, generator=generator)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("window", [None, 10, 50])
@pytest.mark.parametrize(("lengths", "parents"), SHAPES)
def test_outputs_and_gradients(
    lengths: list[int], parents: tuple[int, ...], window: int | None, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(compiled, "load_amx", lambda _: None)
    elif compiled.load_amx("attention.c") is None:
        pytest.skip("no matrix units or no C compiler")
    H, G, K = 6, 2, 64
    config = tiny_config(num_attention_heads=H, num_key_value_heads=G, head_dim=K, sliding_window=window)
    heads, d_out = shared(sum(lengths), 0, H)
    attention = PackedAttention(Layout.packed(lengths, parents=parents), config, torch.bfloat16)
    rounded, d_rounded = heads.bfloat16(), d_out.bfloat16()
    out, logsum = attention.forward(rounded)
    d_heads = attention.backward(rounded, out, logsum, d_rounded)

    expected = rounded.float().requires_grad_()
    plain = _one_by_one(expected.view(-1, H + 2 * G, K), lengths, parents or (-1,) * len(lengths), window, H, G)
    plain.backward(d_rounded.float())
    torch.testing.assert_close(out.float(), plain, atol=0.03, rtol=0.02)
    assert expected.grad is not None
    difference = (d_heads.float() - expected.grad).norm() / expected.grad.norm()
    assert difference < (0.01 if native else 0.03)  # PyTorch rounds the scores to bfloat16


def _one_by_one(
    x_TXK: Tensor, lengths: list[int], parents: tuple[int, ...], window: int | None, H: int, G: int
) -> Tensor:
    """Each segment alone, its keys written out."""
    segments = torch.split(x_TXK, lengths)
    outs = []
    for segment, parent in zip(segments, parents, strict=True):
        whole = segment if parent < 0 else torch.cat((segments[parent], segment))
        past = len(whole) - len(segment)
        steps, keys = torch.arange(past, len(whole))[:, None], torch.arange(len(whole))
        hidden = keys > steps
        if window is not None:
            hidden |= keys <= steps - window
        bias = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
        q, (k, v) = segment[:, :H], whole[:, H:].chunk(2, dim=1)
        outs.append(attend(q[None], k[None], v[None], bias[None])[0].flatten(1))
    return torch.cat(outs)


@pytest.mark.parametrize("parents", [(0, -1), (-1, 0, 1), (1, -1)])
def test_wrong_parents_are_refused(parents: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="parent"):
        Layout.packed([4] * len(parents), parents=parents)
