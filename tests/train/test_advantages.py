"""Advantages: group baselines by hand, GAE against its O(T²) definition, whitening over the whole step."""

import numpy as np
import pytest
import torch

from tutee.train.advantages import gae, group_advantages, whiten, zero_variance_share

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.5, 2.0, 7.0, 7.0]
GROUPS = [3, 3, 3, 3, 8, 8, 5, 5]


def test_grpo_centres_and_scales_within_a_group() -> None:
    advantages = group_advantages(REWARDS, GROUPS)
    assert advantages[:4].tolist() == pytest.approx([0.8660254, -0.8660254, -0.8660254, 0.8660254])
    assert advantages[4:6].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_dr_grpo_only_centres() -> None:
    advantages = group_advantages(REWARDS, GROUPS, scale="none")
    assert advantages[:6].tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5, -0.75, 0.75])


def test_rloo_compares_with_the_others_only() -> None:
    advantages = group_advantages(REWARDS, GROUPS, baseline="leave_one_out", scale="none")
    others = [np.mean([r for j, r in enumerate(REWARDS[:4]) if j != i]) for i in range(4)]
    assert advantages[:4].tolist() == pytest.approx([r - b for r, b in zip(REWARDS[:4], others, strict=True)])
    alone = group_advantages([2.0], [0], baseline="leave_one_out", scale="none")
    assert alone.tolist() == [0.0]  # nothing to compare with


def test_batch_scale_is_of_the_whole_step() -> None:
    centred = group_advantages(REWARDS, GROUPS, scale="none")
    scaled = group_advantages(REWARDS, GROUPS, scale="batch")
    torch.testing.assert_close(scaled, centred / centred.std())


@pytest.mark.row(18)
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_without_variance_gets_exactly_zero(baseline: str, scale: str) -> None:
    rewards = [*REWARDS[:6], 0.1 + 0.2, 0.3]  # equal up to rounding: 1e-17 apart, which must not be blown up
    advantages = group_advantages(rewards, GROUPS, baseline, scale)  # type: ignore[arg-type]
    assert advantages[6:].tolist() == [0.0, 0.0]
    assert advantages[:6].abs().min() > 0
    assert zero_variance_share(rewards, GROUPS) == pytest.approx(1 / 3)


@pytest.mark.row(18)
def test_shuffling_samples_shuffles_their_advantages() -> None:
    plain = group_advantages(REWARDS, GROUPS)
    order = np.random.default_rng(0).permutation(len(REWARDS))
    shuffled = group_advantages([REWARDS[i] for i in order], [GROUPS[i] for i in order])
    torch.testing.assert_close(shuffled, plain[torch.from_numpy(order)])


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        group_advantages([1.0, float("nan")], [0, 0])
    with pytest.raises(ValueError, match="group"):
        group_advantages([1.0], [0, 0])


def gae_by_definition(
    rewards: list[float], values: list[float], gamma: float, lam: float, bootstrap: float
) -> list[float]:
    """Equation 16 of Schulman et al. 2016 as a double sum."""
    following = [*values[1:], bootstrap]
    deltas = [r + gamma * f - v for r, f, v in zip(rewards, following, values, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


@pytest.mark.row(12)
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (0.9, 0.0)])
@pytest.mark.parametrize("bootstrap", [0.0, 0.7])
def test_gae_equals_its_quadratic_definition(gamma: float, lam: float, bootstrap: float) -> None:
    dice = np.random.default_rng(1)
    rewards, values = dice.normal(size=9).tolist(), dice.normal(size=9).tolist()
    fast = gae(torch.tensor(rewards), torch.tensor(values), gamma, lam, bootstrap)
    assert fast.tolist() == pytest.approx(gae_by_definition(rewards, values, gamma, lam, bootstrap), abs=1e-5)


@pytest.mark.row(12)
def test_lambda_one_returns_are_the_rewards_to_go() -> None:
    """With λ = 1, A + V is the discounted sum of what came after, whatever the critic says; V at a cut joins it."""
    rewards, values = torch.tensor([0.1, -0.2, 1.0]), torch.tensor([0.5, -3.0, 2.0])
    returns = gae(rewards, values, gamma=0.9, lam=1.0, bootstrap=4.0) + values
    last = 1.0 + 0.9 * 4.0
    assert returns.tolist() == pytest.approx([0.1 + 0.9 * (-0.2 + 0.9 * last), -0.2 + 0.9 * last, last])


@pytest.mark.row(7)
def test_a_score_on_the_last_token_and_one_slot_later() -> None:
    """Golden vectors for both conventions at V = 0: one slot later only scales everything by λ."""
    score, lam = 1.0, 0.95
    ours = gae(torch.tensor([0.0, 0.0, score]), torch.zeros(3), lam=lam)
    assert ours.tolist() == pytest.approx([lam**2, lam, 1.0])
    later = gae(torch.tensor([0.0, 0.0, 0.0, score]), torch.zeros(4), lam=lam)[:3]
    assert later.tolist() == pytest.approx([lam**3, lam**2, lam])


@pytest.mark.row(13)
def test_whitening_is_over_everything_and_may_keep_the_mean() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 10.0])
    white = whiten(values)
    assert white.mean().item() == pytest.approx(0, abs=1e-6)
    assert white.std().item() == pytest.approx(1)
    assert whiten(values, centre=False).mean().item() == pytest.approx(4.0)
    assert whiten(torch.full((3,), 2.0)).tolist() == [0.0, 0.0, 0.0]
    halves = torch.cat([whiten(values[:2]), whiten(values[2:])])
    assert not torch.allclose(halves, white)  # a microbatch's own statistics would be another step
