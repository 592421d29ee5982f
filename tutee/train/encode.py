"""Chat messages and stored replies to training examples: which tokens, and which of them are learned.

What was sampled is trained as the tokens that were sampled; only text that a person wrote is encoded. An answer is
never
cut: an example longer than the context is left out, and the caller counts it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutee.conversation import Message
from tutee.data.rows import Reply
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Example


def encode_messages(model: Pretrained, messages: Sequence[Message]) -> Example | None:
    """A conversation in which every assistant turn of weight ≠ 0 is learned; None if it does not fit the context."""
    ids, mask = model.chat_format.render_training(messages)
    return _fitting(model, ids, mask)


def encode_reply(model: Pretrained, prompt: Sequence[Message], reply: Reply) -> Example | None:
    """`reply` as the answer to `prompt`; only its tokens are learned. None if it does not fit the context.

    Its sampled tokens are used when this model's tokenizer and template made them, else its text is encoded.
    """
    sampled = reply.sampled
    if (
        sampled is not None
        and sampled.tokenizer_sha256 == model.tokenizer.sha256
        and sampled.template_sha256 == model.chat_format.sha256
    ):
        return encode_tokens(model, sampled.prompt_ids, sampled.token_ids)
    return encode_answer(model, prompt, Message("assistant", reply.text))


def encode_answer(model: Pretrained, prompt: Sequence[Message], answer: Message) -> Example | None:
    """`answer` as a written turn after `prompt`; earlier assistant turns are context only."""
    history = [
        Message(m.role, m.content, m.name, m.tool_calls, m.tool_call_id, 0.0) if m.role == "assistant" else m
        for m in prompt
    ]
    return encode_messages(model, [*history, answer])


def encode_tokens(
    model: Pretrained, prompt: Sequence[int], answer: Sequence[int], logprobs: Sequence[float] | None = None
) -> Example | None:
    """Sampled tokens after a rendered prompt; `logprobs` of the answer's tokens become the reference."""
    reference = None if logprobs is None else (*(0.0 for _ in prompt), *logprobs)
    return _fitting(model, [*prompt, *answer], [*(0 for _ in prompt), *(1 for _ in answer)], reference)


def _fitting(
    model: Pretrained, ids: Sequence[int], mask: Sequence[int], reference: tuple[float, ...] | None = None
) -> Example | None:
    if len(ids) > model.config.max_position_embeddings:
        return None
    # A template without a beginning-of-sequence token may begin with an assistant turn: its first token has no past.
    weights = (0.0, *(float(weight) for weight in mask[1:]))
    return Example(tuple(ids), weights, reference)
