"""SFT's two means by hand, and whole rows to groups: weights, context, templates that forget, models without an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tutee.conversation import Message
from tutee.data.openai_format import Supervised
from tutee.errors import InvalidInput
from tutee.model.chat_format import ChatFormat
from tutee.model.layout import Layout
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group, pack_groups, totals
from tutee.train.loop import take_step
from tutee.train.options import read_options
from tutee.train.sft import SftConfig, sequence_mean_loss, sft_groups, token_accuracy, token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

from .pairs import PAIR, SINGLE, example
from .tiny_training import tiny_model

FORGETFUL = (  # an earlier answer loses what stands before its bar
    "{% for m in messages %}{{ m['role'] }}: "
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('|')[-1] }}{% else %}{{ m['content'] }}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def row(*messages: tuple[str, str, float | None], line: int = 1) -> Supervised:
    return Supervised(line, tuple(Message(role, text, weight=weight) for role, text, weight in messages))  # type: ignore[arg-type]


TALK = row(
    ("user", "Hi", None),
    ("assistant", "so|Hello", None),
    ("user", "Bye", None),
    ("assistant", "well|Ciao", None),
    line=3,
)


def learned(model: Pretrained, group: Group) -> str:
    [e] = group.examples
    return model.tokenizer.decode([t for t, m in zip(e.tokens, e.mask, strict=True) if m], skip_special=False)


def text(model: Pretrained, group: Group) -> str:
    return model.tokenizer.decode(group.examples[0].tokens, skip_special=False)


def test_token_mean_and_sequence_mean() -> None:
    groups = [SINGLE, Group((example(0, 1),), weight=3.0)]
    batch, logprobs = pack_groups(groups), torch.tensor([-1.0, -2.0, -3.0, -4.0])
    loss, metrics = token_mean_loss(logprobs, batch, totals(groups))
    assert loss.item() == pytest.approx((1 + 2 + 3 + 3 * 4) / (3 + 3))
    assert metrics.values()["train_loss"] == pytest.approx(loss.item())
    loss, _ = sequence_mean_loss(logprobs, batch, totals(groups))
    assert loss.item() == pytest.approx((2 + 3 * 4) / 4)
    assert SftConfig().loss() is token_mean_loss
    assert SftConfig(mean="sequence").loss() is sequence_mean_loss


def test_fractional_masks_weigh_tokens() -> None:
    groups = [Group((example(0, 0.5, 1),))]
    loss, _ = token_mean_loss(torch.tensor([-2.0, -4.0]), pack_groups(groups), totals(groups))
    assert loss.item() == pytest.approx((0.5 * 2 + 4) / 1.5)


def test_pairs_are_not_imitated_by_the_sequence_mean() -> None:
    loss, _ = sequence_mean_loss(torch.full((3,), -5.0), pack_groups([PAIR]), totals([PAIR]))
    assert loss.item() == 0


@pytest.mark.row(23)
def test_only_assistant_turns_of_weight_are_learned(model: Pretrained) -> None:
    talk = row(
        ("system", "S", None),
        ("user", "Hi", None),
        ("assistant", "no", 0.0),
        ("user", "?", None),
        ("assistant", "yes", 1.0),
    )
    [group] = sft_groups(model, [talk]).groups
    assert learned(model, group) == "yes<|end|>"
    assert "no<|end|>" in text(model, group)
    [both] = sft_groups(model, [TALK]).groups
    assert learned(model, both) == "so|Hello<|end|>well|Ciao<|end|>"


@pytest.mark.row(22)
def test_a_template_that_forgets_makes_one_example_a_turn(model: Pretrained) -> None:
    model.chat_format = ChatFormat(FORGETFUL, model.tokenizer, (256,))
    plain = row(("user", "Hi", None), ("assistant", "so|Hello", None), line=1)
    encoded = sft_groups(model, [plain, TALK])
    assert encoded.split == (3,)
    assert [learned(model, g) for g in encoded.groups] == ["so|Hello<|end|>"] * 2 + ["well|Ciao<|end|>"]
    assert (
        text(model, encoded.groups[2])
        == "user: Hi<|end|>assistant: Hello<|end|>user: Bye<|end|>assistant: well|Ciao<|end|>"
    )
    asked = model.chat_format.render(TALK.messages[:3])
    assert encoded.groups[2].examples[0].tokens[: len(asked)] == tuple(asked)  # trained as it will be served
    assert "line 3" in encoded.sentences(256)[0]
    half = replace(TALK, messages=tuple(replace(m, weight=0.0) if i == 1 else m for i, m in enumerate(TALK.messages)))
    assert [learned(model, g) for g in sft_groups(model, [half]).groups] == ["well|Ciao<|end|>"]


def test_rows_that_do_not_fit_are_counted_by_line_and_never_cut() -> None:
    model = tiny_model(context=60)
    long = row(("user", "x" * 80, None), ("assistant", "yes", None), line=7)
    encoded = sft_groups(model, [row(("user", "Hi", None), ("assistant", "yes", None)), long])
    assert len(encoded.groups) == 1
    assert encoded.too_long == (7,)
    assert "line 7" in encoded.sentences(60)[0]
    with pytest.raises(InvalidInput) as caught:
        sft_groups(model, [long])
    assert caught.value.code == "empty_dataset"


def test_a_row_without_anything_to_learn_is_named_by_line(model: Pretrained) -> None:
    with pytest.raises(InvalidInput, match="line 5") as caught:
        sft_groups(model, [row(("user", "Hi", None), ("assistant", "no", 0.0), line=5)])
    assert caught.value.code == "all_masked"


def test_a_model_that_cannot_end_is_refused(model: Pretrained) -> None:
    endless = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    model.chat_format = ChatFormat(endless, model.tokenizer, ())
    model.chat_format.stop_ids = frozenset()  # the tiny tokenizer itself names an end token
    with pytest.raises(InvalidInput) as caught:
        sft_groups(model, [TALK])
    assert caught.value.code == "no_end_token"


def test_accuracy_is_the_share_of_tokens_that_are_the_likeliest(model: Pretrained) -> None:
    groups = list(sft_groups(model, [TALK, TALK]).groups)
    trainer = Trainer(model, TrainerConfig(rank=4))
    hits = counted = 0
    for group in groups:
        for one in group.examples:
            layout = Layout.packed([len(one.tokens)])
            hidden = model.decoder(torch.tensor(one.tokens), layout.positions, layout)
            guesses = model.decoder.logits(hidden).argmax(-1).tolist()
            for guess, token, counts in zip(guesses, one.tokens[1:], one.mask[1:], strict=False):
                hits += counts > 0 and guess == token
                counted += counts > 0
    assert token_accuracy(trainer, groups, token_budget=24) == pytest.approx(hits / counted)
    loss = SftConfig().loss()
    for _ in range(30):
        take_step(trainer, groups, loss, 3e-2, 2048)
    assert token_accuracy(trainer, groups, token_budget=2048) > hits / counted + 0.2


def test_settings() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_options(SftConfig, {"mean": "words"})
    assert caught.value.param == "settings.mean"
