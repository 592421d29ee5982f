"""Optimizers against steps written out by hand, and Muon's two sides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.train.optimizers import Optimizer
from tutee.train.trainer import TrainerConfig


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "model.layers.0.mlp.up_proj.weight": (6, 4),
        "model.embed_tokens.weight": (6, 4),
        "model.norm.weight": (4,),
    }
    return {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def give_gradients(parameters: dict[str, Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.row(26)
def test_adamw_equals_its_equations_and_leaves_vectors_undecayed() -> None:
    beta1, beta2, eps, decay, rate = 0.9, 0.98, 1e-5, 0.1, 0.01
    ours = weights()
    optimizer = Optimizer(ours, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    expected = {name: value.detach().double() for name, value in ours.items()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(1, 4):
        give_gradients(ours, step)
        for name, parameter in ours.items():
            gradient = parameter.grad.double()
            first[name] = beta1 * first[name] + (1 - beta1) * gradient
            second[name] = beta2 * second[name] + (1 - beta2) * gradient**2
            if parameter.ndim >= 2:
                expected[name] *= 1 - rate * decay
            unbiased = (second[name] / (1 - beta2**step)).sqrt()
            expected[name] -= rate * first[name] / (1 - beta1**step) / (unbiased + eps)
        optimizer.step(rate)
        optimizer.zero_grad()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_muon_moves_matrices_by_orthogonal_steps_and_the_rest_as_adamw_does() -> None:
    ours, plain = weights(), weights()
    for parameters, name in ((ours, "muon"), (plain, "adamw")):
        give_gradients(parameters, 5)
        Optimizer(parameters, name).step(1e-2)
    matrix, table, vector = ours
    before = weights()[matrix]
    singular = torch.linalg.svdvals((before - ours[matrix]).detach())
    assert singular.max() / singular.min() < 2  # Newton–Schulz stops when all are near 1
    for name in (table, vector):
        assert torch.equal(ours[name], plain[name])


def test_a_taken_up_optimizer_goes_on_bit_for_bit() -> None:
    whole, first, second = weights(), weights(), weights()
    one, other, resumed = (Optimizer(parameters, "muon") for parameters in (whole, first, second))
    for step in range(4):
        give_gradients(whole, step)
        one.step(1e-2)
        ours, optimizer = (first, other) if step < 2 else (second, resumed)
        if step == 2:
            resumed.load(other.state())
            for name, parameter in second.items():
                parameter.data.copy_(first[name].data)
        give_gradients(ours, step)
        optimizer.step(1e-2)
    assert all(torch.equal(whole[name], second[name]) for name in whole)


def test_muon_needs_all_weights_and_numbers_in_range() -> None:
    with pytest.raises(InvalidInput, match="full=true"):
        TrainerConfig(optimizer="muon")
    for key, value in (("eps", 0.0), ("weight_decay", -1.0), ("momentum", 1.0)):
        with pytest.raises(InvalidInput) as caught:
            TrainerConfig(**{key: value})
        assert caught.value.param == key


@pytest.mark.row(30)
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_moves_the_version_of_every_weight(name: str) -> None:
    """The sampler lays weights out for speed, and does so anew when their version moves."""
    own = weights()
    optimizer = Optimizer(own, name)  # type: ignore[arg-type]
    give_gradients(own, 0)
    before = {key: parameter._version for key, parameter in own.items()}
    optimizer.step(1e-2)
    assert all(parameter._version > before[key] for key, parameter in own.items())


def test_moments_in_bfloat16_take_half_and_go_on_bit_for_bit() -> None:
    whole, first, second = weights(), weights(), weights()
    one, other, resumed = (Optimizer(parameters, moments="bfloat16") for parameters in (whole, first, second))
    for step in range(4):
        ours, optimizer = (first, other) if step < 2 else (second, resumed)
        if step == 2:
            state = other.state()
            assert {state[key].dtype for key in state if key.startswith("exp_")} == {torch.bfloat16}
            resumed.load(state)
            for name, parameter in second.items():
                parameter.data.copy_(first[name].data)
        for parameters, own in ((whole, one), (ours, optimizer)):
            give_gradients(parameters, step)
            own.step(1e-2)
    assert all(torch.equal(whole[name], second[name]) for name in whole)


def test_what_auto_means_for_moments() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert TrainerConfig(full=True).moments_of(torch.bfloat16, cpu) == "bfloat16"
    for config, dtype, device in (
        (TrainerConfig(), torch.bfloat16, cpu),
        (TrainerConfig(full=True), torch.float32, cpu),
        (TrainerConfig(full=True), torch.bfloat16, cuda),
        (TrainerConfig(full=True, optimizer="muon"), torch.bfloat16, cpu),
        (TrainerConfig(full=True, moments="float32"), torch.bfloat16, cpu),
    ):
        assert config.moments_of(dtype, device) == "float32"
    with pytest.raises(InvalidInput, match="muon"):
        TrainerConfig(full=True, optimizer="muon", moments="bfloat16")
