"""Products and gradients of matrices against float32, in C and in PyTorch."""

import pytest
import torch
from torch import Tensor

from tutee.model import compiled
from tutee.model.products import add_product, gated_product, gradient, product


@pytest.fixture(params=["C", "PyTorch"], autouse=True)
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PyTorch":
        monkeypatch.setattr(compiled, "load_amx", lambda _: None)
    elif compiled.load_amx("matmul.c") is None:
        pytest.skip("no matrix units or no C compiler")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("rows", [1, 31, 64, 100])
@pytest.mark.parametrize("outputs", [32, 48, 97, 160])
def test_product(rows: int, outputs: int, transposed: bool) -> None:
    x, low, bias = random(rows, 96), random(rows, 64, seed=1)[:, :32], random(outputs, seed=2)
    matrix, more = random(outputs, 96, seed=3), random(outputs, 32, seed=4)
    expected = x.float() @ matrix.float().t() + low.float() @ more.float().t() + bias.float()
    matrices = (matrix, more) if transposed else (matrix.t().contiguous(), more.t().contiguous())
    got = product([(x, matrices[0]), (low, matrices[1])], transposed, bias)
    torch.testing.assert_close(got.float(), expected, atol=0.15, rtol=0.01)
    single = product([(x, matrices[0])], transposed)
    torch.testing.assert_close(single.float(), x.float() @ matrix.float().t(), atol=0.05, rtol=0.01)


@pytest.mark.parametrize("rows", [1, 31, 100])
@pytest.mark.parametrize("outputs", [32, 48, 96])
def test_a_product_is_added_or_gated_before_it_is_rounded(rows: int, outputs: int) -> None:
    x, low, bias = random(rows, 96), random(rows, 32, seed=1), random(outputs, seed=2)
    matrix, more = random(outputs, 96, seed=3), random(outputs, 32, seed=4)
    factors = [(x, matrix), (low, more)]
    expected = x.float() @ matrix.float().t() + low.float() @ more.float().t() + bias.float()
    stream = torch.full((rows, outputs), 100.0)
    add_product(stream, factors, bias)
    exact = compiled.load_amx("matmul.c") is not None
    torch.testing.assert_close(stream, expected + 100, atol=1e-4 if exact else 0.3, rtol=0)
    both, gated = gated_product(factors, bias)
    torch.testing.assert_close(both.float(), expected, atol=0.15, rtol=0.01)
    gate, opened = expected.chunk(2, dim=1)
    expected = torch.nn.functional.silu(gate) * opened
    torch.testing.assert_close(gated.float(), expected, atol=0.2 if exact else 1.0, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 33, 512, 700])
def test_gradient(rows: int) -> None:
    left, right = random(rows, 64), random(rows, 192, seed=1)[:, 32:]
    got = gradient(left, right)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, left.float().t() @ right.float(), atol=0.5, rtol=0.01)
    more = torch.ones(64, 160)
    assert gradient(left, right, into_AB=more) is more
    torch.testing.assert_close(more, got + 1, atol=1e-3, rtol=1e-4)
