"""The clipped policy loss: exact gradients by enumeration, the surrogate on a grid, aggregation, KL estimators."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.train.advantages import gae, group_advantages
from tutee.train.batch import Example, Group, pack_groups, split_groups, totals
from tutee.train.policy_loss import PolicyLossConfig, importance_weights, policy_loss

from .enumerated import TwoTokens, example, in_batch

REWARDS = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.5, -0.2, 0.7, 0.7, -2.0], dtype=torch.float64)
WHOLE = PolicyLossConfig(denominator="constant", constant=1.0)
"""Sums over tokens, mean over answers: with probabilities as weights the expected loss itself."""


def gradient(model: TwoTokens, groups: list[Group], config: PolicyLossConfig) -> Tensor:
    live = model.copy()
    loss, _ = policy_loss(*in_batch(live, groups), config)
    loss.backward()
    assert live.logits.grad is not None
    return live.logits.grad


def expectation(model: TwoTokens, advantages: dict[tuple[int, int], list[float]]) -> list[Group]:
    """Every answer once, weighted by its probability."""
    return [
        Group((example(y, advantages[y], model.token_logprobs(y)),), weight=float(p))
        for y, p in zip(model.answers, model.probabilities(), strict=True)
    ]


@pytest.mark.row(34)
@pytest.mark.parametrize(("lam", "critic"), [(1.0, "exact"), (1.0, "wrong"), (0.95, "exact"), (0.0, "exact")])
def test_ppo_has_the_exact_policy_gradient(lam: float, critic: str) -> None:
    """λ = 1 is unbiased under any critic, any λ under a critic that is right."""
    model = TwoTokens.random(1)
    truth = model.values(REWARDS) if critic == "exact" else dict.fromkeys(model.values(REWARDS), 5.0)
    advantages = {}
    for y, reward in zip(model.answers, REWARDS.tolist(), strict=True):
        values = torch.tensor([truth[()], truth[(y[0],)]])
        advantages[y] = gae(torch.tensor([0.0, reward]), values, 1.0, lam).tolist()
    found = gradient(model, expectation(model, advantages), WHOLE)
    torch.testing.assert_close(found, -model.gradient_of_expected(REWARDS), atol=1e-6, rtol=1e-5)


@pytest.mark.row(34)
@pytest.mark.parametrize(("baseline", "factor"), [("leave_one_out", 1.0), ("mean", 0.5)])
def test_rloo_and_mean_only_grpo_have_the_exact_policy_gradient(baseline: str, factor: float) -> None:
    """Over all pairs of answers drawn together: RLOO exactly, the group mean times (K - 1) / K with K = 2."""
    model = TwoTokens.random(2)
    groups = []
    for i, p in enumerate(model.probabilities()):
        for j, q in enumerate(model.probabilities()):
            pair = [model.answers[i], model.answers[j]]
            advantage = group_advantages([float(REWARDS[i]), float(REWARDS[j])], [0, 0], baseline, "none")  # type: ignore[arg-type]
            both = tuple(
                example(y, [float(a)] * 2, model.token_logprobs(y)) for y, a in zip(pair, advantage, strict=True)
            )
            groups.append(Group(both, weight=float(p * q)))
    found = gradient(model, groups, WHOLE)
    torch.testing.assert_close(found, -factor * model.gradient_of_expected(REWARDS), atol=1e-6, rtol=1e-5)


@pytest.mark.row(34)
def test_normalised_grpo_is_the_gradient_of_what_it_says() -> None:
    """Group deviations in the denominator: equal to differentiating E[stopped advantage · log p] by hand."""
    model = TwoTokens.random(3)
    live = model.copy()
    p = model.probabilities().detach()
    groups, expected = [], torch.zeros(())
    for i in range(len(p)):
        for j in range(len(p)):
            r = REWARDS[[i, j]]
            spread = (r[0] - r[1]).abs() / 2**0.5
            by_hand = (r - r.mean()) / spread if spread > 0 else torch.zeros(2)
            pair = [model.answers[i], model.answers[j]]
            advantage = group_advantages(r.tolist(), [4, 4])
            both = tuple(
                example(y, [float(a)] * 2, model.token_logprobs(y)) for y, a in zip(pair, advantage, strict=True)
            )
            groups.append(Group(both, weight=float(p[i] * p[j])))
            score = sum(a * live.token_logprobs(y).sum() for y, a in zip(pair, by_hand, strict=True))
            expected = expected - p[i] * p[j] * score / 2
    expected.backward()
    torch.testing.assert_close(gradient(model, groups, WHOLE), live.logits.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.row(34)
def test_truncated_weights_make_off_policy_samples_exact_while_nothing_is_truncated() -> None:
    model, behaviour = TwoTokens.random(4), TwoTokens.random(5)
    groups = []
    for y, p, reward in zip(behaviour.answers, behaviour.probabilities(), REWARDS.tolist(), strict=True):
        old = model.token_logprobs(y)
        weight = importance_weights(old, behaviour.token_logprobs(y), most=1e6, per_sequence=True)
        groups.append(Group((example(y, (reward * weight).tolist(), old),), weight=float(p)))
    found = gradient(model, groups, WHOLE)
    torch.testing.assert_close(found, -model.gradient_of_expected(REWARDS), atol=1e-5, rtol=1e-5)


def test_importance_weights_are_truncated_and_one_on_policy() -> None:
    old, behaviour = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    assert importance_weights(old, old, 2.0).tolist() == [1.0, 1.0]
    assert importance_weights(old, behaviour, 1.2).tolist() == pytest.approx([1.2, 0.3678794])
    assert importance_weights(old, behaviour, 2.0, per_sequence=True).tolist() == pytest.approx([0.6065307] * 2)
    absurd = importance_weights(torch.tensor([0.0]), torch.tensor([-500.0]), 1e30)
    assert absurd.isfinite().all()


def one_token(log_ratio: float, advantage: float, config: PolicyLossConfig) -> tuple[float, float, float]:
    """(loss, its derivative in log π, clip fraction) of a single token."""
    group = [Group((Example((1, 2), (0, 1), behaviour_logprobs=(0, -1.0), advantages=(0, advantage)),))]
    logprob = torch.tensor([-1.0 + log_ratio], requires_grad=True)
    loss, metrics = policy_loss(logprob, pack_groups(group), totals(group), config)
    loss.backward()
    assert logprob.grad is not None
    return loss.item(), logprob.grad.item(), metrics.values()["clip_fraction"]


@pytest.mark.row(15)
@pytest.mark.parametrize("advantage", [-2.0, -0.5, 0.5, 2.0])
@pytest.mark.parametrize("ratio", [0.3, 0.79, 0.81, 1.0, 1.27, 1.29, 4.0])
@pytest.mark.parametrize("dual", [None, 3.0])
def test_the_surrogate_on_a_grid(advantage: float, ratio: float, dual: float | None) -> None:
    config = PolicyLossConfig(clip_low=0.2, clip_high=0.28, dual_clip=dual)
    log_ratio = float(torch.tensor(ratio).log())
    loss, slope, clipped = one_token(log_ratio, advantage, config)
    bounded = min(max(ratio, 0.8), 1.28)
    expected = -min(ratio * advantage, bounded * advantage)
    if dual is not None and advantage < 0:
        expected = min(expected, -dual * advantage)
    assert loss == pytest.approx(expected, rel=1e-4)
    step = 1e-3
    up, down = (one_token(log_ratio + sign * step, advantage, config)[0] for sign in (1, -1))
    assert slope == pytest.approx((up - down) / (2 * step), abs=2e-3 * max(1, ratio))
    cut = (advantage > 0 and ratio > 1.28) or (advantage < 0 and ratio < 0.8)
    assert clipped == float(cut)


@pytest.mark.row(16)
@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
def test_an_absurd_ratio_stays_finite(log_ratio: float) -> None:
    loss, slope, _ = one_token(log_ratio, -1.0, PolicyLossConfig())
    assert torch.isfinite(torch.tensor([loss, slope])).all()


def rollouts(seed: int = 0) -> list[Group]:
    """Three groups of answers with uneven lengths, and their advantages and log-probs."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for g in range(3):
        examples = []
        for k in range(2):
            length = 3 + 2 * g + k
            streams = torch.randn(3, length, generator=generator)
            mask = (0.0, *[1.0] * (length - 1))
            tokens = tuple(range(40 * g + 20 * k, 40 * g + 20 * k + length))
            examples.append(
                Example(
                    tokens, mask, tuple(streams[0].tolist()), tuple(streams[1].tolist()), tuple(streams[2].tolist())
                )
            )
        groups.append(Group(tuple(examples)))
    return groups


@pytest.mark.row(17)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("denominator", ["token", "sequence", "constant"])
def test_microbatches_and_their_order_do_not_change_the_step(ratio: str, denominator: str) -> None:
    groups = rollouts()
    constant = 16.0 if denominator == "constant" else None
    config = PolicyLossConfig(ratio=ratio, denominator=denominator, constant=constant, kl=0.1)  # type: ignore[arg-type]

    def step(parts: list[list[Group]]) -> tuple[float, dict[int, float]]:
        """The loss, and its slope by target token (no token occurs twice in this data)."""
        whole, slopes = 0.0, {}
        for part in parts:
            batch = pack_groups(part)
            live = (-batch.targets_N.float() / 30).requires_grad_()
            loss, _ = policy_loss(live, batch, totals(groups), config)
            loss.backward()
            assert live.grad is not None
            whole += loss.item()
            slopes |= dict(zip(batch.targets_N.tolist(), live.grad.tolist(), strict=True))
        return whole, slopes

    loss, slopes = step([groups])
    for parts in ([[g] for g in groups], [[groups[2]], [groups[0]], [groups[1]]], split_groups(groups, 12)):
        assert len(parts) > 1
        loss_in_parts, slopes_in_parts = step(parts)
        assert loss_in_parts == pytest.approx(loss, rel=1e-5)
        assert slopes_in_parts == pytest.approx(slopes, rel=1e-5, abs=1e-7)


@pytest.mark.row(17)
def test_the_three_denominators_by_hand() -> None:
    groups = rollouts()
    batch = pack_groups(groups)
    logprob = batch.behaviour_N.clone()  # ratio 1: a token's loss is minus its advantage
    tokens = -batch.advantage_N
    lengths = torch.bincount(batch.example_N)[batch.example_N]
    for config, expected in (
        (PolicyLossConfig(denominator="token"), tokens.mean()),
        (PolicyLossConfig(denominator="sequence"), (tokens / lengths).sum() / 6),
        (PolicyLossConfig(denominator="constant", constant=10), tokens.sum() / 60),
    ):
        loss, _ = policy_loss(logprob, batch, totals(groups), config)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gspo_moves_an_answer_as_a_whole() -> None:
    """Zheng et al. 2025, equation 7: the geometric mean of token ratios, the same for every token."""
    groups = rollouts()[:1]
    batch = pack_groups(groups)
    logprob = batch.behaviour_N + torch.linspace(-0.1, 0.1, len(batch.targets_N))
    config = PolicyLossConfig(ratio="sequence", denominator="sequence", clip_low=1.0, clip_high=9.0)
    loss, _ = policy_loss(logprob, batch, totals(groups), config)
    expected = 0.0
    for e in (0, 1):
        own = batch.example_N == e
        ratio = (logprob - batch.behaviour_N)[own].mean().exp()
        expected -= (ratio * batch.advantage_N[own]).mean().item() / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_tokens_that_are_no_rollouts_count_nothing() -> None:
    groups = rollouts()
    imitated = Group((Example((7, 8, 9), (0, 1, 1)),))
    alone, _ = policy_loss(*_flat(groups), PolicyLossConfig(kl=0.1))
    mixed, metrics = policy_loss(*_flat([*groups, imitated]), PolicyLossConfig(kl=0.1))
    assert mixed.item() == pytest.approx(alone.item())
    assert all(value == value for value in metrics.values().values())


def _flat(groups: list[Group]):  # type: ignore[no-untyped-def]
    batch = pack_groups(groups)
    return torch.full((len(batch.targets_N),), -1.0), batch, totals(groups)


@pytest.mark.row(10)
def test_the_kl_is_exactly_zero_where_policy_and_reference_are_one() -> None:
    groups = [Group(tuple(replace(e, reference_logprobs=e.behaviour_logprobs) for e in g.examples)) for g in rollouts()]
    batch = pack_groups(groups)
    for estimator in ("k1", "k2", "k3"):
        config = PolicyLossConfig(kl=1.0, kl_estimator=estimator)  # type: ignore[arg-type]
        with_kl, metrics = policy_loss(batch.behaviour_N, batch, totals(groups), config)
        without, _ = policy_loss(batch.behaviour_N, batch, totals(groups), PolicyLossConfig())
        assert with_kl.item() == without.item()
        assert metrics.values()["kl_k1"] == 0.0
        assert metrics.values()["kl_k3"] == 0.0
        assert metrics.values()["kl_to_old"] == 0.0


def kl_terms_and_slopes(estimator: str, corrected: bool) -> tuple[float, Tensor, TwoTokens, TwoTokens]:
    """(expected KL term, its gradient) over the first token, where no later state depends on it."""
    model, reference = TwoTokens.random(6), TwoTokens.random(7)
    config = replace(WHOLE, kl=1.0, kl_estimator=estimator, corrected_kl=corrected)
    groups = []
    for y, p in zip(model.answers, model.probabilities(), strict=True):
        e = example(y, [0.0, 0.0], model.token_logprobs(y), reference.token_logprobs(y))
        groups.append(Group((replace(e, mask=(0.0, 1.0, 0.0)),), weight=float(p)))
    live = model.copy()
    firsts = torch.stack([live.token_logprobs(y)[0] for y in model.answers])
    loss, _ = policy_loss(firsts, pack_groups(groups), totals(groups), config)
    loss.backward()
    assert live.logits.grad is not None
    return loss.item(), live.logits.grad[0], model, reference


def first_token_kl(p: TwoTokens, q: TwoTokens, through: TwoTokens) -> tuple[float, Tensor]:
    """KL(p ‖ q) of the first token and its gradient in `through`'s logits, by enumeration."""
    live = through.copy()
    left, right = (live if m is through else m for m in (p, q))
    logp, logq = torch.log_softmax(left.logits[0], -1), torch.log_softmax(right.logits[0], -1)
    kl = (logp.exp() * (logp - logq)).sum()
    kl.backward()
    assert live.logits.grad is not None
    return kl.item(), live.logits.grad[0]


@pytest.mark.row(9)
@pytest.mark.parametrize(("estimator", "corrected"), [("k1", True), ("k3", True), ("k2", True), ("k2", False)])
def test_kl_estimators_have_the_true_gradient(estimator: str, corrected: bool) -> None:
    mean, slope, model, reference = kl_terms_and_slopes(estimator, corrected)
    kl, truth = first_token_kl(model, reference, through=model)
    torch.testing.assert_close(slope, truth, atol=1e-6, rtol=1e-4)
    if estimator != "k2":  # half the squared log-ratio is only near the KL
        assert mean == pytest.approx(kl, rel=1e-5)


@pytest.mark.row(9)
def test_the_original_k3_has_the_gradient_of_the_other_kl() -> None:
    """As GRPO published it: an unbiased value, but the gradient of KL(π_ref ‖ π)."""
    mean, slope, model, reference = kl_terms_and_slopes("k3", corrected=False)
    kl, _ = first_token_kl(model, reference, through=model)
    _, other = first_token_kl(reference, model, through=model)
    assert mean == pytest.approx(kl, rel=1e-5)
    torch.testing.assert_close(slope, other, atol=1e-6, rtol=1e-4)


@pytest.mark.row(19)
def test_on_policy_the_loss_is_about_zero_and_its_gradient_is_not() -> None:
    advantage = group_advantages([1.0, 0.0], [0, 0])
    model = TwoTokens.random(8)
    pair = [model.answers[1], model.answers[5]]
    both = tuple(example(y, [float(a)] * 2, model.token_logprobs(y)) for y, a in zip(pair, advantage, strict=True))
    live = model.copy()
    loss, _ = policy_loss(*in_batch(live, [Group(both)]), PolicyLossConfig())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert live.logits.grad is not None
    assert live.logits.grad.norm() > 0.1


def test_missing_streams_are_refused() -> None:
    lacking = [Group((Example((1, 2), (0, 1), advantages=(0, 1.0)),))]
    with pytest.raises(ValueError, match="starts from"):
        policy_loss(torch.zeros(1), pack_groups(lacking), totals(lacking), PolicyLossConfig())
    lacking = [Group((Example((1, 2), (0, 1), behaviour_logprobs=(0, -1.0), advantages=(0, 1.0)),))]
    with pytest.raises(ValueError, match="reference"):
        policy_loss(torch.zeros(1), pack_groups(lacking), totals(lacking), PolicyLossConfig(kl=0.1))


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"clip_low": -0.1}, "clip_low"),
        ({"dual_clip": 0.5}, "dual_clip"),
        ({"denominator": "constant"}, "constant"),
        ({"constant": 3.0}, "constant"),
        ({"kl_estimator": "k1", "corrected_kl": False}, "corrected_kl"),
        ({"kl": -1.0}, "kl"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        PolicyLossConfig(**settings)  # type: ignore[arg-type]
    assert caught.value.param == param
