"""On-policy distillation: exact gradients of the reverse KL by enumeration; a student that comes to its teacher."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.train.batch import Group
from tutee.train.distillation import Distillation, DistillationConfig, Teacher, teacher_advantages
from tutee.train.policy_loss import policy_loss
from tutee.train.reinforce import ReinforceConfig, reinforce
from tutee.train.rollout import RolloutConfig
from tutee.train.trainer import Trainer, TrainerConfig

from .enumerated import VOCABULARY, TwoTokens, example, in_batch
from .tiny_reinforcement import NO_LIMITS, TRAINER, collector_for
from .tiny_training import tiny_model


def reverse_kl(student: TwoTokens, teacher: TwoTokens) -> Tensor:
    """KL(student ‖ teacher) over whole answers, differentiable."""
    total = torch.zeros((), dtype=torch.float64)
    for y in student.answers:
        own = student.token_logprobs(y).sum()
        total = total + own.exp() * (own - teacher.token_logprobs(y).sum())
    return total


def myopic_kl(student: TwoTokens, teacher: TwoTokens, fixed: TwoTokens) -> Tensor:
    """Σ of the KLs of the next token in every state, the states visited as `fixed` visits them."""

    def of(row: int) -> Tensor:
        own, other = torch.log_softmax(student.logits[row], -1), torch.log_softmax(teacher.logits[row], -1)
        return (own.exp() * (own - other)).sum()

    first = torch.softmax(fixed.logits[0], -1).detach()
    return of(0) + sum((first[a] * of(1 + a) for a in range(VOCABULARY)), torch.zeros(()))


@pytest.mark.row(34)
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_the_gradient_is_that_of_the_reverse_kl(discount: float) -> None:
    student, teacher = TwoTokens.random(1), TwoTokens.random(2)
    config = DistillationConfig(discount=discount, most_nats=100.0, denominator="constant", constant=1.0)
    groups = []
    for y, p in zip(student.answers, student.probabilities(), strict=True):
        drawn = student.token_logprobs(y)
        advantages = teacher_advantages(drawn, teacher.token_logprobs(y), config).tolist()
        groups.append(Group((example(y, advantages, drawn),), weight=float(p)))
    live, exact = student.copy(), student.copy()
    loss, _ = policy_loss(*in_batch(live, groups), config)
    loss.backward()
    (reverse_kl(exact, teacher) if discount else myopic_kl(exact, teacher, student)).backward()
    torch.testing.assert_close(live.logits.grad, exact.logits.grad, atol=1e-6, rtol=1e-4)


def test_one_absurd_token_is_cut() -> None:
    config = DistillationConfig(most_nats=2.0)
    assert teacher_advantages(torch.tensor([-1.0, -1.0]), torch.tensor([-50.0, -0.5]), config).tolist() == [-2.0, 0.5]


@pytest.mark.row(34)
def test_a_student_comes_to_its_teacher(tmp_path: Path) -> None:
    """The teacher is the same network with a sharper head; KL(student ‖ teacher) an answer halves."""
    teacher = tiny_model()
    with torch.no_grad():
        teacher.decoder.lm_head.weight.mul_(2.5)
    trainer = Trainer(tiny_model(), TRAINER)
    learner = Distillation(trainer, Teacher(teacher, trainer.model), DistillationConfig())
    collector = collector_for(trainer, RolloutConfig(prompts=16, group=8, max_tokens=6))
    run = ReinforceConfig(steps=30, learning_rate=3e-3)
    history = reinforce(learner, collector, run, tmp_path, limits=NO_LIMITS).history
    first, last = history[0]["teacher_kl"], sum(values["teacher_kl"] for values in history[-3:]) / 3
    assert first > 1.5
    assert last < first / 2


def test_a_teacher_that_speaks_otherwise_is_refused() -> None:
    student, teacher = tiny_model(), tiny_model()
    teacher.tokenizer.sha256 = "another"
    with pytest.raises(InvalidInput) as caught:
        Teacher(teacher, student)
    assert caught.value.code == "wrong_tokenizer"
    with pytest.raises(InvalidInput, match="temperature"):
        Distillation(Trainer(student, TrainerConfig(temperature=0.7)), Teacher(student, student), DistillationConfig())
