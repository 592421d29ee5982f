"""KTO against its equation, its KL estimate against a hand count, and a run in which it tells good from bad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from tutee.conversation import Message
from tutee.data.training_files import Thumb
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Example, Group, Loss, pack_groups, totals
from tutee.train.dpo import with_references
from tutee.train.kto import KtoConfig, balanced, kto_groups, kto_loss, with_kl, with_other_answers
from tutee.train.loop import LoopConfig, measure, train
from tutee.train.options import read_options
from tutee.train.trainer import Trainer, TrainerConfig


def rated(tokens: tuple[int, ...], prompt: int, liked: bool, weight: float = 1.0) -> Group:
    mask = tuple(float(t >= prompt) for t in range(len(tokens)))
    return Group((Example(tokens, mask, reference_logprobs=(-1.0,) * len(tokens)),), weight, label=liked)


def test_liked_and_disliked_closed_form() -> None:
    groups = [rated((5, 6, 7), 1, True), rated((5, 8), 1, False, weight=2.0)]
    logprobs = torch.tensor([-0.5, -0.8, -0.2], requires_grad=True)  # ratios .5 + .2 and .8
    config = KtoConfig(beta=0.5, desirable_weight=1.5, undesirable_weight=0.75)
    loss, metrics = kto_loss(logprobs, pack_groups(groups), totals(groups), config, torch.tensor(0.3))

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    liked, disliked = sigma(0.5 * (0.7 - 0.3)), sigma(0.5 * (0.3 - 0.8))
    assert loss.item() == pytest.approx((1.5 * (1 - liked) + 2 * 0.75 * (1 - disliked)) / 3)
    loss.backward()
    pull = 1.5 * 0.5 * liked * (1 - liked) / 3
    push = 2 * 0.75 * 0.5 * disliked * (1 - disliked) / 3
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-pull, -pull, push])
    assert metrics.values()["kl"] == pytest.approx(0.3)


def test_without_kl_nothing_but_the_thumbs_is_needed() -> None:
    groups = [rated((5, 6, 7), 1, True)]
    loss, _ = kto_loss(torch.zeros(2), pack_groups(groups), totals(groups), KtoConfig(kl=False))
    assert loss.item() == pytest.approx(1 - 1 / (1 + math.exp(-0.1 * 2)))
    with pytest.raises(ValueError, match="with_kl"):
        kto_loss(torch.zeros(2), pack_groups(groups), totals(groups), KtoConfig())


def test_each_prompt_is_paired_with_the_next_answer_and_z_is_never_negative() -> None:
    groups = with_other_answers([rated((1, 2, 3), 1, True), rated((4, 5, 6, 7), 2, False)], context=100)
    assert [group.examples[1].tokens for group in groups] == [(1, 6, 7), (4, 5, 2, 3)]
    groups = with_references(groups, lambda sequences: [torch.full((len(s) - 1,), -2.0) for s in sequences])

    def z_at(logprob: float) -> tuple[list[Group], float]:
        def measure(others: Sequence[Group], loss: Loss) -> torch.Tensor:
            batch = pack_groups(others)
            return loss(torch.full((len(batch.targets_N),), logprob), batch, totals(others))[0]

        own, loss = with_kl(groups, measure, KtoConfig())
        _, metrics = loss(torch.zeros(4), pack_groups(own), totals(own))
        return own, metrics.values()["kl"]

    own, z = z_at(-1.5)
    assert z == pytest.approx(1.0)  # two tokens of +.5 each
    assert [group.examples for group in own] == [group.examples[:1] for group in groups]
    assert z_at(-2.5)[1] == 0
    assert with_other_answers([rated((1, 2, 3), 1, True), rated((4, 5), 1, True)], 2)[0].examples[1].tokens == (1, 5)


def test_a_single_thumb_cannot_measure_the_policy() -> None:
    with pytest.raises(InvalidInput) as caught:
        with_other_answers([rated((1, 2), 1, True)], 100)
    assert caught.value.code == "not_enough_data"


def test_the_rarer_thumb_is_weighted_up() -> None:
    groups = balanced([rated((1, 2), 1, True), *[rated((1, 2), 1, False)] * 3])
    assert [group.weight for group in groups] == [3, 1, 1, 1]
    only = [rated((1, 2), 1, True)] * 2
    assert list(balanced(only)) == only


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"desirable_weight": -1}, {"undesirable_weight": 0}, {"lambda": 1}])
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_options(KtoConfig, wrong)
    assert caught.value.param == f"settings.{next(iter(wrong))}"


def test_it_learns_which_answers_are_liked_and_z_is_of_the_whole_step(model: Pretrained, tmp_path: Path) -> None:
    thumbs = [
        Thumb(i + 1, (Message("user", f"Q{i}"),), Message("assistant", "yes" if i % 2 else "no"), bool(i % 2))
        for i in range(12)
    ]
    trainer = Trainer(model, TrainerConfig(rank=4))
    config = KtoConfig(beta=0.3)
    groups = with_references(kto_groups(model, thumbs, config).groups, trainer.score)
    loop = LoopConfig(epochs=6, batch_size=6, learning_rate=3e-2, token_budget=40)  # one row a microbatch

    def before_step(step: Sequence[Group]) -> tuple[list[Group], Loss]:
        return with_kl(step, partial(measure, trainer, token_budget=40), config)

    result = train(trainer, groups, config.loss(), loop, tmp_path, before_step=before_step)
    first, last = result.history[0], result.history[-1]
    assert first["kto_loss"] == pytest.approx(0.5, abs=1e-6)  # nothing moved: every gain is σ(0)
    assert first["kl"] == 0
    assert last["liked_log_ratio"] > last["disliked_log_ratio"] + 1
    assert last["kto_loss"] < 0.4
