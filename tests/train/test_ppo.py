"""PPO: rewards of tokens, returns and whitening, the critic's loss by finite differences, the KL price, PPO-ptx."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.model.lora import Lora, LoraConfig
from tutee.model.value_head import ValueHead
from tutee.train.batch import Batch, Example, Group, Totals, pack_groups, totals
from tutee.train.environments import Question
from tutee.train.metrics import Metrics
from tutee.train.policy_loss import policy_loss
from tutee.train.ppo import (
    KlPrice,
    Ppo,
    PpoConfig,
    forecasts,
    make_critic,
    make_groups,
    ppo_loss,
    token_rewards,
    value_loss,
)
from tutee.train.reinforce import ReinforceConfig, reinforce, update
from tutee.train.reward_model import RewardModel
from tutee.train.rewards import Answer, EndTerm, Rewards
from tutee.train.rollout import Reference, Rollout, RolloutConfig, together
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_reinforcement import NO_LIMITS, RUN, TRAINER, collector_for, ppo_learner
from .tiny_training import singles, tiny_model


def rollout(reward: float, logprobs: tuple[float, ...], finished: bool = True, index: int = 0) -> Rollout:
    tokens = tuple(range(10, 10 + len(logprobs)))
    answer = Answer(Question((Message("user", "x"),)), (1, 2), tokens, "", finished)
    return Rollout(index, answer, logprobs, 0, reward, {})


@pytest.mark.row(7)
def test_rewards_of_tokens_sum_to_score_minus_kl_and_the_score_stands_on_the_end_token() -> None:
    drawn, reference = (-1.0, -2.0, -0.5), torch.tensor([-1.5, -1.0, -0.5])
    rewards = token_rewards(rollout(2.0, drawn), reference, beta=0.1)
    assert rewards.tolist() == pytest.approx([-0.05, 0.1, 2.0])
    kl = float((torch.tensor(drawn) - reference).sum())
    assert rewards.sum().item() == pytest.approx(2.0 - 0.1 * kl)


@pytest.mark.row(8)
def test_an_answer_that_was_cut_off_pays() -> None:
    """The price is a term of the reward, which stands on the last token."""
    for finished, last in ((False, -0.7), (True, 0.0)):
        drawn = rollout(0.0, (0.0, 0.0), finished)
        [judged] = Rewards([(0.7, EndTerm())]).score([drawn.answer])
        earned_T = token_rewards(replace(drawn, reward=judged.total), torch.zeros(2), 0.0)
        assert earned_T.tolist() == pytest.approx([0.0, last])


@pytest.mark.row(8)
@pytest.mark.parametrize("ending", [256, 17])
def test_every_configured_end_token_ends_an_answer(ending: int) -> None:
    """A model with two end tokens: an answer is finished by either, keeps it, and nothing comes after it."""
    model = tiny_model()
    model.chat_format.stop_ids = frozenset({256, 17})
    with torch.no_grad():  # make one of them certain
        model.decoder.lm_head.weight[ending] = 0
        model.decoder.model.norm.weight.zero_()
        model.decoder.lm_head.weight.zero_()
    trainer = Trainer(model, TRAINER)
    rollouts = collector_for(trainer, RolloutConfig(prompts=2, group=200, max_tokens=8)).collect(0, 0).rollouts
    ended = [r for r in rollouts if r.answer.token_ids[-1] == ending]
    assert ended
    for r in rollouts:
        ends = [t for t in r.answer.token_ids if t in (256, 17)]
        assert r.answer.finished == bool(ends)
        assert len(ends) <= 1
        assert not ends or r.answer.token_ids[-1] == ends[0]
        assert r.example().mask[-1] == 1.0  # the end token is an action like any other


@pytest.mark.row(5)
def test_a_pad_token_that_is_the_end_token_still_counts() -> None:
    """The tiny tokenizer's pad is its end token; masks come from lengths, so it is learned and rewarded."""
    assert tiny_model().tokenizer.pad_id == 256
    answer = Answer(Question((Message("user", "x"),)), (256, 5), (7, 256), "", True)
    example = Rollout(0, answer, (-1.0, -1.0), 0, 1.0, {}).example()
    assert example.mask == (0, 0, 1, 1)
    assert pack_groups([Group((example,))]).targets_N.tolist() == [7, 256]


@pytest.mark.row(12)
@pytest.mark.row(13)
def test_returns_are_unwhitened_and_a_cut_answer_is_bootstrapped_only_when_asked() -> None:
    rollouts = [rollout(1.0, (-1.0, -1.0)), rollout(0.0, (-1.0, -2.0, -3.0), finished=False, index=1)]
    values = [torch.tensor([0.2, 0.4]), torch.tensor([0.5, 0.1, 0.3])]
    reference = [torch.tensor(r.logprobs) for r in rollouts]

    def streams(config: PpoConfig) -> tuple[Tensor, Tensor]:
        batch = pack_groups(make_groups(rollouts, values, [9.0, 2.0], reference, config, beta=0.1))
        return batch.advantage_N, batch.return_N

    plain = PpoConfig(lam=1.0, whiten=False)
    advantages, returns = streams(plain)
    assert returns.tolist() == pytest.approx([1, 1, 0, 0, 0], abs=1e-6)
    assert advantages.tolist() == pytest.approx([0.8, 0.6, -0.5, -0.1, -0.3])
    _, bootstrapped = streams(replace(plain, bootstrap_cut=True))
    assert bootstrapped.tolist() == pytest.approx([1, 1, 2, 2, 2])  # V only after the one that was cut
    white, same = streams(replace(plain, whiten=True))
    assert same.tolist() == returns.tolist()
    torch.testing.assert_close(white, (advantages - advantages.mean()) / advantages.std())


def one_value(value: float, old: float, target: float, clip: float | None) -> tuple[float, float]:
    example = Example((1, 2), (0, 1), values=(0, old), returns=(0, target), advantages=(0, 0))
    group = [Group((example,))]
    live = torch.tensor([value, 99.0], requires_grad=True)
    loss, _ = value_loss(live, pack_groups(group), totals(group), clip=clip)
    loss.backward()
    assert live.grad is not None
    assert live.grad[1] == 0  # the row of the last token predicts nothing here
    return loss.item(), live.grad[0].item()


@pytest.mark.row(14)
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("old", [0.0, 1.0])
@pytest.mark.parametrize("value", [-1.0, -0.1, 0.1, 0.7, 1.3])
def test_the_critics_loss_is_a_maximum_of_two_and_plain_when_off(value: float, old: float, clip: float | None) -> None:
    target, step = 0.5, 1e-3
    loss, slope = one_value(value, old, target, clip)
    near = value if clip is None else old + min(max(value - old, -clip), clip)
    assert loss == pytest.approx(max((value - target) ** 2, (near - target) ** 2) / 2, rel=1e-4)
    up, down = (one_value(value + sign * step, old, target, clip)[0] for sign in (1, -1))
    assert slope == pytest.approx((up - down) / (2 * step), abs=2e-3)


@pytest.mark.row(17)
def test_the_critics_step_does_not_depend_on_its_microbatches() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = []
    for length in (2, 5, 3):
        values = torch.randn(2, length, generator=generator)
        rest = {"values": (0, *values[0].tolist()), "returns": (0, *values[1].tolist())}
        groups.append(
            Group((Example(tuple(range(length + 1)), (0, *[1] * length), advantages=(0,) * (length + 1), **rest),))
        )
    whole = value_loss(torch.zeros(13), pack_groups(groups), totals(groups), clip=0.2)[0].item()
    parts = sum(
        value_loss(torch.zeros(len(g.examples[0].tokens)), pack_groups([g]), totals(groups), clip=0.2)[0].item()
        for g in groups
    )
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.row(27)
@pytest.mark.parametrize("start", [0.001, 1.0])
def test_the_kl_price_finds_its_target(start: float) -> None:
    """A policy whose KL is 3 / β: the price settles where it is 6, whatever it began as."""
    price = KlPrice(start, target=6.0, horizon=100)
    for _ in range(200):
        price.observe(3 / (price.beta + 1e-3), answers=64)
    assert 3 / (price.beta + 1e-3) == pytest.approx(6.0, rel=0.05)
    fixed = KlPrice(0.1)
    fixed.observe(1e9, 1000)
    assert fixed.beta == 0.1


@pytest.mark.row(29)
def test_ptx_adds_the_likelihood_of_rows_to_imitate() -> None:
    group = [Group((Example((1, 2, 3), (0, 1, 1), behaviour_logprobs=(0, -1, -1), advantages=(0, 1, -2)),))]
    mixed = [*group, Group((Example((4, 5, 6, 7), (0, 0, 1, 1)),))]
    logprob = torch.tensor([-1.0, -1.0, -3.0, -5.0], requires_grad=True)
    config = PpoConfig(ptx=0.5)
    loss, metrics = ppo_loss(logprob, pack_groups(mixed), totals(mixed), config=config)
    without, _ = policy_loss(logprob[:2], pack_groups(group), totals(group), config)
    assert loss.item() == pytest.approx(without.item() + 0.5 * 4.0)
    assert metrics.values()["ptx_loss"] == pytest.approx(4.0)
    loss.backward()
    assert logprob.grad is not None
    assert logprob.grad[2:].tolist() == pytest.approx([-0.25, -0.25])


def test_a_minibatch_of_rows_to_imitate_alone_is_a_supervised_step() -> None:
    alone = [Group((Example((4, 5, 6), (0, 1, 1)),))]
    for denominator in ("token", "sequence"):
        config = PpoConfig(ptx=0.5, denominator=denominator)  # type: ignore[arg-type]
        loss, _ = ppo_loss(torch.tensor([-1.0, -3.0]), pack_groups(alone), totals(alone), config=config)
        assert loss.item() == pytest.approx(0.5 * 2.0)


@pytest.mark.row(29)
def test_ptx_keeps_what_the_model_knew(tmp_path: Path) -> None:
    """The same run with and without: the likelihood of the mixed-in rows falls without it, and rises with it."""
    known = singles(8)
    after = {}
    for ptx in (0.0, 1.0):
        learner = ppo_learner(PpoConfig(kl_price=0.0, ptx=ptx), ptx=known)
        before = float(torch.cat(learner.trainer.score([g.examples[0].tokens for g in known])).mean())
        run = ReinforceConfig(steps=8, learning_rate=1e-2)
        reinforce(learner, collector_for(learner.trainer), run, tmp_path / str(ptx), limits=NO_LIMITS)
        after[ptx] = float(torch.cat(learner.trainer.score([g.examples[0].tokens for g in known])).mean()) - before
    assert after[0.0] < -0.05
    assert after[1.0] > 0.05


@pytest.mark.row(25)
def test_a_critic_explains_the_returns_of_a_fixed_policy() -> None:
    """Rewards that the prompt's first letter decides: the policy stands still, the variance explained comes over .8."""
    config = PpoConfig(kl_price=0.0, critic_learning_rate=1e-2, critic_warmup=1000, value_clip=None, lam=1.0)
    learner = ppo_learner(config)
    collector = collector_for(learner.trainer, RolloutConfig(prompts=26, group=1, max_tokens=6))
    run = ReinforceConfig(learning_rate=1e-2, epochs=4)
    explained = []
    for step in range(18):
        rollouts = collector.collect(step, 26 * step).rollouts
        by_prompt = [replace(r, reward=(r.answer.prompt_ids[6] - 64) / 13 - 1) for r in rollouts]
        explained.append(learner.learn(by_prompt, step, 1e-2, run)["explained_variance"])
    assert explained[0] < 0.1  # it began by forecasting 0
    assert np.mean(explained[-4:]) > 0.8


@pytest.mark.row(25)
def test_a_critic_begins_as_the_reward_model_and_has_its_own_rate() -> None:
    policy = Trainer(tiny_model(), TrainerConfig(rank=4))
    lora, head = Lora(policy.model.config, LoraConfig(rank=2), seed=3), ValueHead(32, seed=4)
    with torch.no_grad():
        for b in lora.B.values():
            b.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    critic = make_critic(policy, TrainerConfig(rank=2), RewardModel(policy.model, lora, head))
    assert critic.model.decoder is policy.model.decoder  # one base in memory
    rollouts = [rollout(1.0, (-1.0, -1.0)), rollout(0.0, (-1.0, -2.0, -3.0), index=1)]
    _, after = forecasts(critic, rollouts, token_budget=64)
    as_reward_model = Trainer(policy.model, TrainerConfig(rank=2), lora, head)
    assert forecasts(as_reward_model, rollouts, token_budget=4)[1] == pytest.approx(after, abs=1e-6)
    assert len(set(after)) == 2
    learner = Ppo(policy, critic, PpoConfig(critic_learning_rate=1e-2), Reference(policy))
    before = [p.detach().clone() for p in policy.lora.parameters()]
    learner.learn(rollouts, 0, 0.0, ReinforceConfig(learning_rate=1e-3))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.lora.parameters(), strict=True))
    assert torch.equal(head.weight, ValueHead(32, seed=4).weight)  # a copy learned, not the reward model
    full = make_critic(Trainer(tiny_model(), TRAINER), TrainerConfig(rank=2))
    assert full.model.decoder is not policy.model.decoder
    assert forecasts(full, rollouts, 64)[1] == [0.0, 0.0]


@pytest.mark.row(25)
def test_a_critic_of_all_weights_begins_as_a_reward_model_of_all_weights() -> None:
    network = tiny_model()
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter.mul_(1.1)
    judge = RewardModel(network, None, ValueHead(32, seed=4))
    critic = make_critic(Trainer(tiny_model(), TRAINER), TRAINER, judge)
    rollouts = [rollout(1.0, (-1.0, -1.0)), rollout(0.0, (-1.0, -2.0, -3.0), index=1)]
    _, after = forecasts(critic, rollouts, token_budget=64)
    assert after == pytest.approx(judge.score([r.tokens for r in rollouts]), abs=1e-5)
    assert critic.model.decoder is not network.decoder  # a copy learns


def test_the_price_of_kl_stays_while_the_policy_does_not_learn() -> None:
    learner = ppo_learner(PpoConfig(kl_target=1.0, kl_horizon=10, critic_warmup=1))
    collector = collector_for(learner.trainer)
    prices = []
    for step in range(3):
        prices.append(learner.learn(collector.collect(step, 3 * step).rollouts, step, 1e-2, RUN)["kl_price"])
    assert prices[1] == prices[0]
    assert prices[2] != prices[1]


@pytest.mark.row(12)
@pytest.mark.row(25)
def test_a_critic_that_learns_while_it_forecasts_learns_the_same() -> None:
    """A step's only update needs no pass of its own for the forecasts; groups that come apart and small packs too."""
    one_pass, two_passes = ppo_learner(), ppo_learner()
    found = collector_for(one_pass.trainer).collect(0, 0).rollouts
    mixed = [*found[1::2], *found[::2]]
    once = ReinforceConfig(learning_rate=1e-2, token_budget=40)
    report = one_pass.learn(mixed, 0, 1e-2, once)
    rollouts, critic = together(mixed), two_passes.critic
    reference = Reference(two_passes.trainer).score(rollouts)
    values, after = forecasts(critic, rollouts, token_budget=40)
    groups = make_groups(rollouts, values, after, reference, PpoConfig(), beta=0.05)

    def loss(value_T: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
        return value_loss(value_T, batch, totals, clip=0.2)

    learned = update(critic, groups, loss, 0, 1e-2, once)
    assert report["value_loss"] == pytest.approx(learned["value_loss"], rel=1e-5)
    for name, tensor in critic.state()[0].items():
        torch.testing.assert_close(one_pass.critic.state()[0][name], tensor, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.row(12)
def test_neighbours_in_the_pack_do_not_reach_a_forecast() -> None:
    learner = ppo_learner(PpoConfig())
    collected = collector_for(learner.trainer).collect(0, 0)
    learner.learn(collected.rollouts, 0, 1e-2, RUN)
    packed, ends = forecasts(learner.critic, collected.rollouts, token_budget=10_000)
    for i, alone in enumerate(collected.rollouts):
        values, after = forecasts(learner.critic, [alone], token_budget=1)
        torch.testing.assert_close(values[0], packed[i], atol=1e-6, rtol=0)
        assert after[0] == pytest.approx(ends[i], abs=1e-6)


@pytest.mark.row(34)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns(tmp_path: Path, seed: int) -> None:
    run = ReinforceConfig(steps=30, learning_rate=1e-2, seed=seed, epochs=2)
    learner = ppo_learner(PpoConfig(kl_price=0.0))
    collector = collector_for(learner.trainer, RolloutConfig(prompts=16, group=2, max_tokens=6, seed=seed))
    history = reinforce(learner, collector, run, tmp_path, limits=NO_LIMITS).history
    assert history[0]["reward"] < 0.4
    assert history[-1]["reward"] > 0.85
    assert {"explained_variance", "value_loss", "kl", "kl_price", "clip_fraction"} <= history[-1].keys()


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"lam": 1.5}, "lam"),
        ({"kl_target": 6.0, "kl_price": 0.0}, "kl_price"),
        ({"value_clip": 0.0}, "value_clip"),
        ({"clip_low": 3.0}, "clip_low"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        PpoConfig(**settings)  # type: ignore[arg-type]
    assert caught.value.param == param
