"""Sampled answers are trained as the tokens that were sampled; everything else goes through the one renderer."""

import pytest

from tutee.conversation import Function, Message
from tutee.data.openai_format import Preference, Supervised
from tutee.data.rows import Reply, Sampled
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.train.candidates import training_prompts
from tutee.train.dpo import dpo_groups
from tutee.train.encode import encode_answer, encode_reply, encode_tokens
from tutee.train.sft import sft_groups

from .tiny_training import tiny_model

PROMPT = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Bye"))


def sampled(model: Pretrained, tokenizer: str | None = None) -> Reply:
    ids = tuple(model.chat_format.render(PROMPT))
    hashes = (tokenizer or model.tokenizer.sha256, model.chat_format.sha256)
    return Reply("So long", "g", "v", Sampled(ids, (1, 2, 3), (-1.0, -2.0, -3.0), *hashes, "length"))


def test_sampled_tokens_are_not_encoded_again(model: Pretrained) -> None:
    example = encode_reply(model, PROMPT, sampled(model))
    assert example.tokens[-3:] == (1, 2, 3)  # not the text's tokens, and no end of turn that was never said
    assert example.counted == 3


def test_tokens_of_another_tokenizer_are_not_used(model: Pretrained) -> None:
    assert encode_reply(model, PROMPT, sampled(model, "other")) == encode_answer(
        model, PROMPT, Message("assistant", "So long")
    )


def test_a_written_answer_stands_where_a_sampled_one_would(model: Pretrained) -> None:
    ids = model.chat_format.render(PROMPT)
    written = encode_answer(model, PROMPT, Message("assistant", "Ciao"))
    assert written.tokens[: len(ids)] == tuple(ids)
    assert written.mask[: len(ids)] == (0.0,) * len(ids)  # the earlier assistant turn is context only
    assert written.counted == len(written.tokens) - len(ids)


CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time."}}


def test_tools_of_a_row_stand_in_its_prompt_as_they_are_served() -> None:
    model = tiny_model(context=4096)
    messages = (Message("user", "How late is it?"), Message("assistant", "Noon."))
    served = model.chat_format.render(messages[:1], functions=[Function("clock", "Tells the time.")])
    assert "Tells the time." in model.tokenizer.decode(served)
    [imitated] = sft_groups(model, [Supervised(1, messages, (CLOCK,))]).groups
    pair = Preference(1, messages[:1], messages[1], Message("assistant", "No."), (CLOCK,))
    [compared] = dpo_groups(model, [pair]).groups
    for example in (*imitated.examples, *compared.examples):
        assert example.tokens[: example.prompt_length] == tuple(served)


def test_a_tool_without_a_name_is_refused_by_line(model: Pretrained) -> None:
    row = Supervised(7, (Message("user", "Hi"), Message("assistant", "Yes?")), ({"type": "function"},))
    with pytest.raises(InvalidInput, match=r"line 7: tools\[0\] must be a function with a name"):
        sft_groups(model, [row])


def test_what_does_not_fit_is_none_not_cut(model: Pretrained) -> None:
    assert encode_tokens(model, [1] * 250, [2] * 6) is not None
    assert encode_tokens(model, [1] * 250, [2] * 7) is None


def test_prompts_are_deduplicated_labelled_first_and_leave_room(model: Pretrained) -> None:
    def ask(text: str) -> tuple[Message, ...]:
        return (Message("user", text),)

    found = training_prompts(model, [ask("a"), ask("b"), ask("a")], [ask("b"), ask("c"), ask("x" * 240)], 9, 20, seed=0)
    assert sorted(messages[0].content for messages, _ in found[:2]) == ["a", "b"]
    assert [messages[0].content for messages, _ in found[2:]] == ["c"]
    assert len(training_prompts(model, [ask("a"), ask("b")], [], 1, 20, seed=0)) == 1
