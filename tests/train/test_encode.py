"""Sampled answers are trained as the tokens that were sampled; everything else goes through the one renderer."""

from tutee.conversation import Message
from tutee.data.rows import Reply, Sampled
from tutee.model.pretrained import Pretrained
from tutee.train.candidates import training_prompts
from tutee.train.encode import encode_answer, encode_reply, encode_tokens

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
