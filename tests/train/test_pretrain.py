"""A model from nothing: every byte can be written, every token but a document's first is predicted once, it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tutee.conversation import Message
from tutee.data.training_files import Text
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.train.loop import LoopConfig, train
from tutee.train.options import read_options
from tutee.train.pretrain import PretrainConfig, cut, new_model, pretrain_groups, train_tokenizer
from tutee.train.trainer import Trainer, TrainerConfig

SMALL = PretrainConfig(vocabulary=300, layers=2, width=32, heads=2, kv_heads=1, context=48)
TEXTS = [Text(i + 1, f"the cat sat on the mat number {i % 4}. " * (1 + i % 5)) for i in range(30)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    torch.set_num_threads(1)
    return new_model(SMALL, TEXTS, tmp_path_factory.mktemp("made") / "model", seed=1)


def test_the_tokenizer_compresses_its_text_and_knows_all_other(tmp_path: Path) -> None:
    tokenizer = train_tokenizer([row.text for row in TEXTS], 300, tmp_path)
    assert len(tokenizer.encode("the cat sat on the mat")) < 10
    strange = "żółw 🐢\t\x00 <|im_end|> \ufeff"
    assert tokenizer.decode(tokenizer.encode(strange)) == strange
    assert tokenizer.special_tokens["<|im_end|>"] not in tokenizer.encode(strange)  # what people write stays text
    assert tokenizer.vocab_size <= 300


def test_every_token_but_the_first_is_predicted_exactly_once(made: Pretrained) -> None:
    encoded = pretrain_groups(made, TEXTS)
    end = made.tokenizer.special_tokens["<|endoftext|>"]
    expected = [[end, *made.tokenizer.encode(row.text), end] for row in TEXTS]
    learned = [t for g in encoded.groups for e in g.examples for t, m in zip(e.tokens, e.mask, strict=True) if m]
    assert learned == [token for ids in expected for token in ids[1:]]
    assert max(group.num_tokens for group in encoded.groups) <= 48
    assert len(encoded.groups) < len(TEXTS) * 3
    assert sum(group.num_tokens for group in encoded.groups) / len(encoded.groups) > 24  # rows are well filled


def test_windows_overlap_by_one() -> None:
    assert cut(range(7), 3) == [range(3), range(2, 5), range(4, 7)]
    assert cut(range(3), 3) == [range(3)]
    assert cut(range(4), 3) == [range(3), range(2, 4)]


def test_it_begins_uniform_and_learns(made: Pretrained, tmp_path: Path) -> None:
    groups = pretrain_groups(made, TEXTS).groups
    trainer = Trainer(made, TrainerConfig(full=True))
    loop = LoopConfig(epochs=16, batch_size=8, learning_rate=1e-2)
    history = train(trainer, groups, SMALL.loss(), loop, tmp_path / "run").history
    assert history[0]["loss"] == pytest.approx(math.log(made.config.vocab_size), abs=0.3)
    assert history[-1]["loss"] < 1.5
    trainer.save(tmp_path / "version")
    again = load_pretrained(tmp_path / "version", "float32")
    assert again.chat_format.render([Message("user", "Hi")])[0] == made.tokenizer.special_tokens["<|im_start|>"]
    assert again.chat_format.stop_ids == {made.tokenizer.special_tokens[t] for t in ("<|im_end|>", "<|endoftext|>")}


def test_a_model_that_is_there_is_opened_and_the_seed_decides_the_rest(made: Pretrained, tmp_path: Path) -> None:
    first = new_model(SMALL, TEXTS, tmp_path / "a", seed=1)
    again = new_model(SMALL, [], tmp_path / "a", seed=2)
    assert first.weights_sha256 == again.weights_sha256 == made.weights_sha256
    assert new_model(SMALL, TEXTS, tmp_path / "b", seed=2).weights_sha256 != made.weights_sha256


def test_no_text_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        new_model(SMALL, [Text(1, "  \n")], tmp_path / "m")
    assert caught.value.code == "empty_dataset"
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"vocabulary": 258}, {"layers": 0}, {"width": 30, "heads": 4}, {"heads": 4, "kv_heads": 3}, {"context": 1}],
)
def test_shapes_that_cannot_be_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_options(PretrainConfig, wrong)
    assert caught.value.param in {f"settings.{name}" for name in wrong} | {"settings.width"}
