"""AdamW in C against the same in PyTorch, and what 16 bits do to moments."""

import pytest
import torch
from torch import Tensor

from tutee.model import adamw, compiled
from tutee.model.adamw import Rates


def tensors(moments: torch.dtype, size: int = 5000) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameter, gradient, first, second = (torch.randn(size, generator=generator) for _ in range(4))
    return [parameter, gradient, first.mul(0.1).to(moments), second.square().to(moments), parameter.bfloat16()]


def moved(moments: torch.dtype, steps: int = 3, size: int = 5000) -> list[Tensor]:
    parameter, gradient, first, second, copy = tensors(moments, size)
    for number in range(1, steps + 1):
        rates = Rates(number, 1e-2, (0.9, 0.98), 1e-8, clip=0.5)
        adamw.step(parameter, gradient * number, (first, second), rates, 0.1, copy)
    return [parameter, first, second, copy]


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_compiled_equals_torch(moments: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.load("adamw.c", *adamw.FLAGS) is None:
        pytest.skip("no C compiler")
    native = moved(moments)
    monkeypatch.setattr(compiled, "load", lambda *_: None)
    for got, expected in zip(native, moved(moments), strict=True):
        assert got.dtype == expected.dtype
        # The dice are the same, so bfloat16 differs by a unit only where the sums before were a hair apart.
        torch.testing.assert_close(got, expected, rtol=2**-7 if got.dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_the_copy_is_the_master_rounded() -> None:
    parameter, _, _, copy = moved(torch.float32)
    assert torch.equal(copy, parameter.bfloat16())


@pytest.mark.parametrize("code", ["C", "PyTorch"])
def test_moments_in_16_bits_are_right_on_average(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second moment that shrinks by a thousandth a step would stand still if it were rounded to the nearest."""
    if code == "PyTorch":
        monkeypatch.setattr(compiled, "load", lambda *_: None)
    parameter, gradient = torch.zeros(20_000), torch.zeros(20_000)
    first, second = torch.zeros(20_000).bfloat16(), torch.ones(20_000).bfloat16()
    for number in range(1, 101):
        adamw.step(parameter, gradient, (first, second), Rates(number, 0.0, (0.9, 0.999), 1e-8))
    assert second.float().mean().item() == pytest.approx(0.999**100, rel=1e-3)
    assert second.float().std().item() < 0.03
    assert second.unique().numel() > 5
