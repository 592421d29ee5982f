"""The C code against the PyTorch that stands in for it, on the same bfloat16 inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tutee.model import compiled, fused


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm() -> list[Tensor]:
    x, weight = random(7, 48, dtype=torch.float32), random(48, seed=1, dtype=torch.float32)
    return list(fused.norm(x, weight, 1e-5, torch.bfloat16))


def norm_weight_gradient() -> list[Tensor]:
    weight = random(80, dtype=torch.float32)
    weight[3] = 0.0
    return [fused.norm_weight_gradient(random(7, 80, seed=3), random(7, 80, seed=4), weight)]


def norm_backward() -> list[Tensor]:
    weight, dx = random(48, dtype=torch.float32), random(7, 48, seed=1, dtype=torch.float32)
    weight[3] = 0.0
    scale = random(7, seed=2, dtype=torch.float32).abs()
    return [dx, fused.norm_backward(random(7, 48, seed=3), random(7, 48, seed=4), scale, weight, dx)]


def rotate(back: bool = False) -> list[Tensor]:
    angles = torch.outer(torch.arange(20.0), torch.arange(1, 9) / 10)
    x = random(7, 80)
    fused.rotate(x, 3, torch.tensor([0, 1, 2, 3, 0, 1, 19]), angles.cos(), angles.sin(), back)
    return [x]


def rotate_back() -> list[Tensor]:
    return rotate(back=True)


def gated() -> list[Tensor]:
    return [fused.gated(random(7, 96) * 20)]


def gated_backward() -> list[Tensor]:
    gate_up, d_out = random(7, 96) * 20, random(7, 48, seed=1)
    fused.gated_backward(gate_up, d_out)
    return [gate_up, d_out]


WORK = [norm, norm_backward, norm_weight_gradient, rotate, rotate_back, gated, gated_backward]


@pytest.mark.parametrize("work", WORK)
def test_compiled_equals_torch(work: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.load("training.c", *fused.FLAGS) is None:
        pytest.skip("no C compiler")
    native = work()
    monkeypatch.setattr(compiled, "load", lambda *_: None)
    for got, expected in zip(native, work(), strict=True):
        # One unit in the last place of bfloat16: sums are added up in another order.
        torch.testing.assert_close(got, expected, rtol=2**-7 if got.dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert all(torch.isfinite(got).all() for got in native)
