"""What is kept of n answers; rounds that are read again instead of drawn; imitation of the best raises the reward."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.train.best_of_n import BestOfNConfig, choose_best, collect_best, kl_bound
from tutee.train.environments import Question
from tutee.train.loop import LoopConfig, train
from tutee.train.options import read_options
from tutee.train.rewards import Answer, Rewards
from tutee.train.rollout import Collected, Rollout, RolloutConfig
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_reinforcement import LowTokens, collector_for
from .tiny_training import tiny_model

ASK = Question((Message("user", "Q"),))


def rollout(index: int, reward: float, token: int, finished: bool = True) -> Rollout:
    answer = Answer(ASK, (1, 2), (token, 256), "x", finished)
    return Rollout(index, answer, (-1.0, -1.0), 0, reward, {})


def test_the_best_that_ended_is_kept_once() -> None:
    drawn = [
        rollout(0, 0.9, 11, finished=False),  # best, but cut off
        rollout(0, 0.5, 12),
        rollout(0, 0.8, 13),
        rollout(0, 0.8, 13),
        rollout(1, 0.2, 14),
        rollout(1, 0.2, 15),  # nothing to choose between
        rollout(2, 1.0, 16),
        rollout(2, 0.0, 17),
    ]
    best, metrics = choose_best(drawn, BestOfNConfig())
    assert [item.token_ids for item in best] == [(13, 256), (16, 256)]
    assert best[0].gain == pytest.approx(0.05)
    assert metrics.values()["silent_groups"] == pytest.approx(1 / 3)
    assert metrics.values()["gain"] == pytest.approx((0.05 + 0.5) / 2)
    two, _ = choose_best(drawn, BestOfNConfig(keep=2, least_gain=-0.0))
    assert [item.token_ids for item in two] == [(13, 256), (16, 256)]  # the others are not above their mean
    assert [item.token_ids for item in choose_best(drawn, BestOfNConfig(least_gain=0.1))[0]] == [(16, 256)]
    [group] = [best[0].group()]
    assert group.examples[0].tokens == (1, 2, 13, 256)
    assert group.examples[0].mask == (0, 0, 1, 1)


def test_the_bound_on_kl_holds_for_an_exact_distribution() -> None:
    """Best of n of a finite distribution, worked out: P(best = k) = F_k^n - F_{k-1}^n."""
    p = np.random.default_rng(0).dirichlet(np.ones(30))
    for n in (1, 2, 8, 64):
        q = np.diff(np.concatenate([[0], np.cumsum(p)]) ** n)
        kl = float((q * np.log(np.maximum(q, 1e-300) / p)).sum())
        assert kl <= kl_bound(n) + 1e-9
    assert kl_bound(1) == 0
    assert kl_bound(8) == pytest.approx(math.log(8) - 7 / 8)


def test_rounds_that_are_there_are_not_drawn_again_and_imitation_raises_the_reward(tmp_path: Path) -> None:
    torch.set_num_threads(1)

    trainer = Trainer(tiny_model(), TrainerConfig(full=True))
    draw = RolloutConfig(prompts=12, group=8, max_tokens=5, seed=3)
    collector = collector_for(trainer, draw, Rewards([(1.0, LowTokens())]))
    collect = collector.collect

    def whole(step: int, question: int) -> Collected:
        """Every answer counts as ended, for the tiny model hardly ever ends one."""
        found = collect(step, question)
        ended = tuple(replace(r, answer=replace(r.answer, finished=True)) for r in found.rollouts)
        return replace(found, rollouts=ended)

    collector.collect = whole  # type: ignore[method-assign]
    config = BestOfNConfig(rounds=3)
    groups = collect_best(collector, config, tmp_path / "rounds")
    assert len(groups) > 20
    (tmp_path / "rounds" / "000002.json").unlink()
    asked: list[int] = []

    def counted(step: int, question: int) -> Collected:
        asked.append(question)
        return whole(step, question)

    collector.collect = counted  # type: ignore[method-assign]
    assert collect_best(collector, config, tmp_path / "rounds") == groups
    assert asked == [24]
    before = collect(0, 500).metrics["reward"]
    train(trainer, groups, config.loss(), LoopConfig(epochs=6, batch_size=6, learning_rate=1e-2), tmp_path / "run")
    assert collect(0, 500).metrics["reward"] > before + 0.2


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"keep": 0}, {"least_gain": -1.0}])
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_options(BestOfNConfig, wrong)
    assert caught.value.param == f"settings.{next(iter(wrong))}"
