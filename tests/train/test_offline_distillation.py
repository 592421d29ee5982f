"""The forward KL to a teacher against its definition on all tokens, and a student that becomes its teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutee.conversation import Message
from tutee.data.openai_format import Supervised
from tutee.errors import InvalidInput
from tutee.model.layout import Layout
from tutee.model.pretrained import Pretrained
from tutee.train.batch import pack_groups, totals
from tutee.train.loop import LoopConfig, train
from tutee.train.offline_distillation import OfflineDistillationConfig, distillation_groups, distillation_loss
from tutee.train.options import read_options
from tutee.train.trainer import Trainer, TrainerConfig

from .pairs import SINGLE
from .tiny_training import tiny_model

ROWS = [
    Supervised(i + 1, (Message("user", f"Q{i}"), Message("assistant", text)))
    for i, text in enumerate(("yes", "no way", "maybe so", "I do"))
]


@pytest.fixture
def teacher() -> Pretrained:
    other = tiny_model()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in other.decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return other


def logits(model: Pretrained, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        layout = Layout.packed([len(tokens)])
        return model.decoder.logits(model.decoder(torch.tensor(tokens), layout.positions, layout))


@pytest.mark.parametrize(("top_k", "temperature"), [(257, 1.0), (4, 1.0), (4, 2.0)])
def test_the_loss_is_the_forward_kl(model: Pretrained, teacher: Pretrained, top_k: int, temperature: float) -> None:
    config = OfflineDistillationConfig(top_k=top_k, teacher_temperature=temperature)
    groups = distillation_groups(model, teacher, ROWS, config).groups
    found = Trainer(model, TrainerConfig(rank=2)).forward(pack_groups(groups), config.loss(), totals(groups)).values()
    kl = tokens = 0.0
    for group in groups:
        [example] = group.examples
        theirs = logits(teacher, example.tokens) / temperature
        ours = torch.log_softmax(logits(model, example.tokens), dim=-1)
        for t in range(1, len(example.tokens)):
            if example.mask[t]:
                best = theirs[t - 1].topk(top_k)
                p = torch.softmax(best.values, dim=-1)
                kl += float((p * (p.log() - ours[t - 1][best.indices])).sum())
                tokens += 1
    assert found["distillation_kl"] == pytest.approx(kl / tokens, rel=1e-4)
    assert found["loss"] == pytest.approx(kl / tokens, rel=1e-4)


def test_a_student_of_itself_has_nothing_to_learn(model: Pretrained) -> None:
    config = OfflineDistillationConfig(top_k=257)
    groups = distillation_groups(model, model, ROWS, config).groups
    values = Trainer(model, TrainerConfig(rank=2)).forward(pack_groups(groups), config.loss(), totals(groups)).values()
    assert values["distillation_kl"] == pytest.approx(0, abs=1e-5)
    assert 0 < values["teacher_entropy"] < math.log(257)


def test_the_student_becomes_its_teacher(model: Pretrained, teacher: Pretrained, tmp_path: Path) -> None:
    config = OfflineDistillationConfig(top_k=32)
    groups = distillation_groups(model, teacher, ROWS, config).groups
    trainer = Trainer(model, TrainerConfig(full=True))
    loop = LoopConfig(epochs=50, batch_size=4, learning_rate=1e-2, checkpoint_every=50)
    history = train(trainer, groups, config.loss(), loop, tmp_path).history
    assert history[-1]["distillation_kl"] < 0.1 * history[0]["distillation_kl"]


def test_another_tokenizer_or_too_short_a_context_is_refused(model: Pretrained, teacher: Pretrained) -> None:
    teacher.tokenizer.sha256 = "another"
    with pytest.raises(InvalidInput) as caught:
        distillation_groups(model, teacher, ROWS, OfflineDistillationConfig())
    assert caught.value.code == "wrong_tokenizer"
    teacher.tokenizer.sha256 = model.tokenizer.sha256
    teacher.config = replace(teacher.config, max_position_embeddings=8)
    with pytest.raises(InvalidInput) as caught:
        distillation_groups(model, teacher, ROWS, OfflineDistillationConfig())
    assert caught.value.code == "context_length_exceeded"


def test_a_token_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher"):
        distillation_loss(torch.zeros(3), pack_groups([SINGLE]), totals([SINGLE]))


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"teacher_temperature": 0}])
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_options(OfflineDistillationConfig, wrong)
    assert caught.value.param == f"settings.{next(iter(wrong))}"
