"""No loss waits for a device: on PyTorch's `meta` device, which has no numbers, every question is an error."""

from functools import partial

import pytest
import torch

from tutee.train.batch import Batch, Example, Group, Loss, pack_groups, totals
from tutee.train.dpo import DpoConfig, dpo_loss
from tutee.train.grpo import variant
from tutee.train.kto import KtoConfig, kto_loss
from tutee.train.metrics import Metrics
from tutee.train.offline_distillation import distillation_loss
from tutee.train.policy_loss import policy_loss
from tutee.train.ppo import PpoConfig, ppo_loss, value_loss
from tutee.train.reward import reward_loss
from tutee.train.sft import sequence_mean_loss, token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_training import examples, singles, tiny_model


def rollouts() -> list[Group]:
    known = (0.0, 0.5, 0.5)
    one = Example((1, 2, 3), (0.0, 1.0, 1.0), known, known, known, known, known)
    return [Group((one, one)), Group((one, one))]


def pairs() -> list[Group]:
    better, worse = examples(2, reference=-1.0)
    return [Group.pair(better, worse)]


def thumbs() -> list[Group]:
    liked, disliked = examples(2, reference=-1.0)
    return [Group((liked,), label=True), Group((disliked,), label=False)]


POLICY: list[tuple[Loss, list[Group]]] = [
    (token_mean_loss, singles(3)),
    (sequence_mean_loss, singles(3)),
    (dpo_loss, pairs()),
    (distillation_loss, singles(3)),
    (partial(dpo_loss, config=DpoConfig(shape="apo_zero", sft_weight=0.1)), pairs()),
    (partial(kto_loss, config=KtoConfig(kl=False)), thumbs()),
    (partial(kto_loss, z=torch.zeros((), device="meta")), thumbs()),
    (partial(policy_loss, config=variant("dapo")), rollouts()),
    (partial(policy_loss, config=variant("grpo")), rollouts()),
    (partial(policy_loss, config=variant("gspo")), rollouts()),
    (partial(ppo_loss, config=PpoConfig(ptx=0.1), unmoved=True), [*rollouts(), *singles(2)]),
]
VALUES: list[tuple[Loss, list[Group]]] = [(partial(value_loss, clip=0.2), rollouts()), (reward_loss, pairs())]


@pytest.mark.parametrize(("loss", "groups"), POLICY)
def test_a_policys_loss_asks_nothing_of_the_device(loss: Loss, groups: list[Group]) -> None:
    batch = pack_groups(groups, share_prompts=True).to("meta")
    check(loss, batch, torch.zeros(len(batch.targets_N), device="meta", requires_grad=True), groups)


@pytest.mark.parametrize(("loss", "groups"), VALUES)
def test_a_value_models_loss_asks_nothing_of_the_device(loss: Loss, groups: list[Group]) -> None:
    batch = pack_groups(groups, share_prompts=True).to("meta")
    check(loss, batch, torch.zeros(len(batch.tokens_T), device="meta", requires_grad=True), groups)


def check(loss: Loss, batch: Batch, first: torch.Tensor, groups: list[Group]) -> None:
    value, metrics = loss(first, batch, totals(groups))
    value.backward()
    assert first.grad is not None
    assert metrics.parts
    with pytest.raises((RuntimeError, NotImplementedError)):
        (metrics + metrics).values()


def test_metrics_are_fetched_at_once_and_are_the_same() -> None:
    parts = {"a": (1.0, 4.0), "b": (2.0, 0.0)}
    waiting = Metrics({name: (torch.tensor(n).double(), torch.tensor(d).double()) for name, (n, d) in parts.items()})
    assert waiting.settled().parts == parts
    assert (waiting + waiting).values() == Metrics(parts).values() == {"a": 0.25}


def test_a_step_takes_its_batch_to_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, seen = Trainer(tiny_model(), TrainerConfig(rank=2)), []
    move = Batch.to

    def to(batch: Batch, device: torch.device | str, non_blocking: bool = False) -> Batch:
        seen.append(torch.device(device))
        return move(batch, device, non_blocking)

    monkeypatch.setattr(Batch, "to", to)
    groups = singles(2)
    trainer.forward_backward(pack_groups(groups), token_mean_loss, totals(groups))
    trainer.forward(pack_groups(groups), token_mean_loss, totals(groups))
    assert seen == [trainer.device] * 2
