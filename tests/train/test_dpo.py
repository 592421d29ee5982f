"""DPO against its equations, its gradient, and its known optimum on a model that can be enumerated."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tutee.errors import InvalidInput
from tutee.train.batch import Example, Group, pack_groups, totals
from tutee.train.dpo import SHAPES, DpoConfig, dpo_loss, with_references
from tutee.train.options import read_options
from tutee.train.recipe import recipe_loss

from .enumerated import TwoTokens
from .pairs import PAIR, SINGLE, example

RATIOS = torch.tensor([-0.5, -1.0, -2.5])
"""Log-probs under which the chosen log-ratio is 1.5 and the rejected one -1."""


def nll(margin: float) -> float:
    return math.log1p(math.exp(-margin))


def loss_of(config: DpoConfig, group: Group = PAIR) -> float:
    return dpo_loss(RATIOS, pack_groups([group]), totals([group]), config)[0].item()


@pytest.mark.row(28)
def test_closed_form() -> None:
    loss, metrics = dpo_loss(RATIOS, pack_groups([PAIR]), totals([PAIR]), DpoConfig(beta=0.4))
    assert loss.item() == pytest.approx(nll(0.4 * 2.5))
    assert metrics.values()["reward_margin"] == pytest.approx(1.0)
    assert metrics.values()["reward_accuracy"] == 1
    assert loss_of(DpoConfig(beta=0.4, label_smoothing=0.1)) == pytest.approx(0.9 * nll(1) + 0.1 * nll(-1))
    assert loss_of(DpoConfig(beta=0.4, sft_weight=0.2)) == pytest.approx(nll(1) + 0.2 * 0.75)
    assert loss_of(DpoConfig(beta=4, length_normalised=True)) == pytest.approx(nll(4 * (0.75 + 1.0)))
    assert loss_of(DpoConfig(beta=0.4, shape="ipo")) == pytest.approx((2.5 - 1.25) ** 2)
    assert loss_of(DpoConfig(beta=0.4, shape="ipo", length_normalised=True)) == pytest.approx((1.75 - 1.25) ** 2)
    smooth = 0.75 * (2.5 - 1.25) ** 2 + 0.25 * (-2.5 - 1.25) ** 2
    assert loss_of(DpoConfig(beta=0.4, shape="ipo", label_smoothing=0.25)) == pytest.approx(smooth)


@pytest.mark.row(28)
def test_gradient_is_beta_sigma_minus_margin() -> None:
    """Rafailov et al. 2023, the gradient after equation 7."""
    logprobs = RATIOS.clone().requires_grad_()
    loss, _ = dpo_loss(logprobs, pack_groups([PAIR]), totals([PAIR]), DpoConfig(beta=0.4))
    loss.backward()
    pull = 0.4 / (1 + math.exp(0.4 * 2.5))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-pull, -pull, pull])


@pytest.mark.row(28)
@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_equal_policies_lose_exactly_ln_2(beta: float) -> None:
    logprobs = pack_groups([PAIR]).reference_N
    loss, _ = dpo_loss(logprobs, pack_groups([PAIR]), totals([PAIR]), DpoConfig(beta=beta))
    assert loss.item() == torch.tensor(2.0).log().item()


def test_a_tie_pulls_the_log_ratios_together() -> None:
    tie = Group(PAIR.examples, ranks=(0, 0))
    assert loss_of(DpoConfig(beta=0.4), tie) == pytest.approx((nll(1) + nll(-1)) / 2)
    with pytest.raises(ValueError, match="ties"):
        loss_of(DpoConfig(shape="apo_zero"), tie)


def test_a_ranking_is_the_mean_of_its_pairs() -> None:
    a, b = PAIR.examples
    c = example(0, 1, 1, 1, reference=(0, -1.0, -1.0, -1.0))
    ranking = Group((b, c, a), ranks=(3, 2, 1))
    logprobs = torch.tensor([-2.5, -0.5, -0.5, -0.5, -0.5, -1.0])  # ratios of b, c, a: -1, 1.5, 1.5
    loss, _ = dpo_loss(logprobs, pack_groups([ranking]), totals([ranking]), DpoConfig(beta=0.4))
    assert loss.item() == pytest.approx((nll(0) + nll(1) + nll(1)) / 3)


def test_the_recipe_mixes_pairs_and_singles_over_one_denominator() -> None:
    batch = pack_groups([PAIR, SINGLE])
    logprobs = torch.tensor([-0.5, -1.0, -2.5, -1.0, -2.0, -3.0], requires_grad=True)
    loss, _ = recipe_loss(logprobs, batch, totals([PAIR, SINGLE]), beta=0.4)
    loss.backward()
    assert loss.item() == pytest.approx((2 * nll(1) + 2) / 3)
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()  # the single has no reference, and that must not poison the pair


def test_a_pair_without_reference_is_refused() -> None:
    group = Group.pair(example(0, 1), example(0, 1, 1))
    with pytest.raises(ValueError, match="reference"):
        dpo_loss(torch.zeros(3), pack_groups([group]), totals([group]))
    scored = with_references([group, SINGLE], lambda sequences: [torch.full((len(s) - 1,), -1.0) for s in sequences])
    assert scored[0].examples[1].reference_logprobs == (0.0, -1.0, -1.0)
    assert scored[1] == SINGLE


@pytest.mark.row(28)
@pytest.mark.row(34)
def test_the_optimum_is_the_reference_tilted_by_the_reward() -> None:
    """With a Bradley-Terry share of votes for every two answers, π* = π_ref exp(r/β) / Z (Rafailov et al., eq. 4)."""
    beta, model = 0.5, TwoTokens.random(3)
    reference = TwoTokens.random(8)
    rewards = torch.randn(len(model.answers), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    groups = []
    for i, j in itertools.permutations(range(len(model.answers)), 2):
        share = torch.sigmoid(rewards[i] - rewards[j]).item()  # of the votes that prefer i to j
        pair = (_example(model.answers[i], reference), _example(model.answers[j], reference))
        groups.append(Group.pair(*pair, weight=share))
    batch, sums = pack_groups(groups), totals(groups)
    policy = model.copy()
    optimizer = torch.optim.LBFGS([policy.logits], lr=1, max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        rows = [policy.token_logprobs(e.tokens[1:]) for group in groups for e in group.examples]  # type: ignore[arg-type]
        loss, _ = dpo_loss(torch.cat(rows), batch, sums, DpoConfig(beta=beta))
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = reference.probabilities() * torch.exp(rewards / beta)
    expected = expected / expected.sum()
    assert torch.allclose(policy.probabilities().detach(), expected, atol=1e-4)


def _example(answer: tuple[int, int], reference: TwoTokens) -> Example:
    logprobs = reference.token_logprobs(answer).tolist()
    return Example((0, *answer), (0.0, 1.0, 1.0), reference_logprobs=(0.0, *logprobs))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"beta": 0}, "beta"),
        ({"shape": "round"}, "shape"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"shape": "nca", "label_smoothing": 0.1}, "label_smoothing"),
        ({"shape": "exo"}, "label_smoothing"),
        ({"sft_weight": -1}, "sft_weight"),
        ({"gamma": 1}, "gamma"),
    ],
)
def test_settings_that_are_wrong_or_change_nothing_are_named(wrong: dict[str, float], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_options(DpoConfig, wrong)
    assert caught.value.param == f"settings.{param}"


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"discopop"}))  # which, as published, has a hump at 0
def test_every_shape_prefers_the_chosen(shape: str) -> None:
    """A small step down the gradient raises Δ from equal policies."""
    config = DpoConfig(shape=shape, label_smoothing=0.1 if shape in ("exo", "robust") else 0.0)  # type: ignore[arg-type]
    logprobs = pack_groups([PAIR]).reference_N.clone().requires_grad_()
    loss, _ = dpo_loss(logprobs, pack_groups([PAIR]), totals([PAIR]), config)
    loss.backward()
    assert logprobs.grad is not None
    assert (-logprobs.grad[:2].sum() + logprobs.grad[2]).item() > 0


def test_discopop_is_a_number_however_far_the_policy_went() -> None:
    chosen_P = torch.tensor([-1e4, -90.0, 0.0, 1e4], requires_grad=True)
    loss_P = SHAPES["discopop"](chosen_P, torch.zeros(4), 1.0, 0.0)
    loss_P.sum().backward()
    assert loss_P.tolist() == pytest.approx([1e4, 90.0, 0.5 * math.log(2) + 0.5, 0.0])
    assert chosen_P.grad is not None
    assert torch.isfinite(chosen_P.grad).all()


def test_with_lengths_normalised_the_margin_is_the_one_that_is_learned() -> None:
    """By its sum the long answer lost more; a token it lost less, and that is what the loss sees."""
    long, short = (Example((1,) * (n + 1), (0.0, *[1.0] * n), (0.0, *[-1.0] * n)) for n in (10, 1))
    batch = pack_groups([Group.pair(long, short)])
    logprob_N = torch.tensor([-1.1] * 10 + [-1.5])
    normalised = dpo_loss(
        logprob_N, batch, totals([Group.pair(long, short)]), DpoConfig(beta=2.0, length_normalised=True)
    )
    values = normalised[1].values()
    assert values["reward_margin"] == pytest.approx(2 * (-0.1 + 0.5), abs=1e-5)
    assert values["reward_accuracy"] == 1
    assert values["chosen_log_ratio"] == pytest.approx(-1.0, abs=1e-5)  # nats an answer
