"""A step of any method asks its device for numbers once: the gradient's norm and what microbatches said together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from tutee.model.value_head import ValueHead
from tutee.train import reinforce
from tutee.train.batch import Example, Group, Loss
from tutee.train.dpo import DpoConfig
from tutee.train.kto import KtoConfig, with_kl, with_other_answers
from tutee.train.loop import measure, take_step
from tutee.train.reward import RewardConfig
from tutee.train.sft import sequence_mean_loss, token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_ranks import ONCE, SEVERAL
from .tiny_reinforcement import collector_for, learner_for
from .tiny_training import examples, singles, tiny_model
from .waits import counting


def soft() -> list[Group]:
    """Given answers with a teacher's two likeliest tokens at each place."""
    targets = [((), *[((1, -0.5), (2, -1.0))] * 2)] * 2
    return [Group((Example((1, 2, 3), (0.0, 1.0, 1.0), soft_targets=target),)) for target in targets]


def pairs() -> list[Group]:
    some = examples(8, reference=-1.0)
    return [Group.pair(better, worse) for better, worse in zip(some[::2], some[1::2], strict=True)]


FIXED: dict[str, tuple[Loss, list[Group], TrainerConfig]] = {
    "sft": (token_mean_loss, singles(6), TrainerConfig(rank=2)),
    "sft, sequence mean": (sequence_mean_loss, singles(6), TrainerConfig(full=True)),
    "pretrain": (token_mean_loss, singles(6), TrainerConfig(full=True, optimizer="muon")),
    "dpo": (DpoConfig(sft_weight=0.1).loss(), pairs(), TrainerConfig(rank=2)),
    "offline_distillation": (token_mean_loss, soft(), TrainerConfig(rank=2)),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_step_on_fixed_data_waits_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, groups, config = FIXED[name]
    trainer = Trainer(tiny_model(), config)
    with counting(monkeypatch) as waits:
        take_step(trainer, groups, loss, 1e-3, token_budget=60)
    assert waits.count == 1, waits.said


def test_a_step_of_a_reward_model_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    trainer = Trainer(model, TrainerConfig(rank=2), head=ValueHead(model.config.hidden_size))
    with counting(monkeypatch) as waits:
        take_step(trainer, pairs(), RewardConfig().loss(), 1e-3, token_budget=60)
    assert waits.count == 1, waits.said


def test_a_step_from_thumbs_waits_once_with_its_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    rated = [Group((example,), label=i % 2 == 0) for i, example in enumerate(examples(6, reference=-1.0))]
    groups = with_other_answers(rated, 100)
    known = [Group(tuple(_referred(e) for e in group.examples), label=group.label) for group in groups]
    trainer = Trainer(tiny_model(), TrainerConfig(rank=2))
    with counting(monkeypatch) as waits:
        own, loss = with_kl(known, partial(measure, trainer, token_budget=60), KtoConfig())
        take_step(trainer, own, loss, 1e-3, token_budget=60)
    assert waits.count == 1, waits.said


def _referred(example: Example) -> Example:
    return Example(example.tokens, example.mask, (-1.0,) * len(example.tokens))


@pytest.mark.parametrize("name", ["grpo", "grpo-lora", "ppo", "ppo-lora"])
@pytest.mark.parametrize("run", [ONCE, SEVERAL], ids=["one update", "several"])
def test_every_update_from_drawn_answers_waits_once(
    name: str, run: reinforce.ReinforceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_for(name)
    rollouts = collector_for(learner.trainer).collect(0, 0).rollouts
    counts: list[list[str]] = []

    def counted(trainer: Trainer, groups: Sequence[Group], *rest: Any) -> dict[str, float]:
        with counting(monkeypatch) as waits:
            values = take_step(trainer, groups, *rest)
        counts.append(waits.said)
        return values

    monkeypatch.setattr(reinforce, "take_step", counted)
    learner.learn(rollouts, 0, 1e-3, run)
    assert len(counts) >= run.updates
    assert all(len(said) == 1 for said in counts), counts


def test_the_counter_sees_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    row = torch.tensor([1.0, 2.0])
    with counting(monkeypatch) as waits:
        row.sum().item()
        bool(row.any())
        float(row[0])
        row.tolist()
        row[row > 1]
        torch.nonzero(row)
        row.cpu()
        (row * 2).sum()
    assert waits.count == 7, waits.said
