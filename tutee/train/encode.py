"""Chat messages and stored replies to training examples: which tokens, and which of them are learned.

What was sampled is trained as the tokens that were sampled; only text that a person wrote is encoded. An answer is
never cut: an example longer than the context is left out and counted. Where a model's template drops or rewrites
earlier assistant turns (reasoning models forget what they thought), a row of several turns becomes one example a turn,
each after the prompt that the model would have seen. Knows no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from tutee.conversation import Function, Message
from tutee.data.rows import Reply
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Example, Group, check_group


class Line(Protocol):
    """A row of a training file."""

    @property
    def line(self) -> int:
        """1-based."""


Row = TypeVar("Row", bound=Line)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a file became. `too_long` and `split` are the 1-based lines that were left out and that became several
    examples."""

    groups: tuple[Group, ...]
    too_long: tuple[int, ...] = ()
    split: tuple[int, ...] = ()

    def sentences(self, context: int) -> list[str]:
        """What a person should know of it; nothing when every line became one group."""
        out = []
        if self.too_long:
            lines = _listed(self.too_long)
            out.append(f"{len(self.too_long)} rows exceed the context of {context} tokens and were left out: {lines}.")
        if self.split:
            lines = _listed(self.split)
            out.append(f"The template drops earlier turns, so {len(self.split)} rows were split by turn: {lines}.")
        return out


def encode_rows(
    model: Pretrained,
    rows: Sequence[Row],
    groups_of: Callable[[Row], Sequence[Group] | None],
    param: str = "training_file",
) -> Encoded:
    """All rows of a file, checked one by one.

    Args:
        groups_of: the groups of one row; None when it does not fit the context.

    Raises:
        InvalidInput: the model has no token that ends an answer (`no_end_token`); a line with nothing to learn
            (`all_masked`) or with two equal answers (`identical_pair`); no line that fits (`empty_dataset`).
    """
    if not model.chat_format.stop_ids:
        raise InvalidInput(
            f"{model.name} has neither an end-of-sequence token nor an end-of-turn token in its template, so it could "
            "not learn where an answer ends. Give its config.json an eos_token_id.",
            param="model",
            code="no_end_token",
        )
    groups: list[Group] = []
    too_long, split = [], []
    for row in rows:
        where = f"line {row.line}"
        try:
            found = groups_of(row)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error.message}", param=param, code=error.code) from None
        if found is None:
            too_long.append(row.line)
            continue
        for group in found:
            check_group(group, where, param)
        if len(found) > 1:
            split.append(row.line)
        groups += found
    if rows and not groups:
        length = model.config.max_position_embeddings
        message = f"None of the {len(rows)} examples fits the model's context of {length} tokens."
        raise InvalidInput(message, param=param, code="empty_dataset")
    return Encoded(tuple(groups), tuple(too_long), tuple(split))


def functions_of(tools: Sequence[Mapping[str, Any]]) -> list[Function]:
    """A row's `tools` as its prompt offers them, as they would be when the same request is served.

    Raises:
        InvalidInput: one that is no function with a name.
    """
    out = []
    for i, tool in enumerate(tools):
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            message = f"tools[{i}] must be a function with a name."
            raise InvalidInput(message, param=f"tools[{i}].function.name", code="invalid_type")
        told = {key: function[key] for key in ("description", "parameters") if function.get(key) is not None}
        out.append(Function(function["name"], **told))
    return out


def encode_messages(
    model: Pretrained, messages: Sequence[Message], functions: Sequence[Function] = ()
) -> Example | None:
    """A conversation in which every assistant turn of weight ≠ 0 is learned; None if it does not fit the context.

    Raises:
        InvalidInput: the template drops or rewrites earlier turns (`invalid_template`).
    """
    ids, mask = model.chat_format.render_training(messages, functions)
    return _fitting(model, ids, mask)


def encode_turns(
    model: Pretrained, messages: Sequence[Message], functions: Sequence[Function] = ()
) -> list[Example] | None:
    """`encode_messages`, or where the template forbids that, one example for each assistant turn of weight ≠ 0."""
    try:
        whole = encode_messages(model, messages, functions)
        return None if whole is None else [whole]
    except InvalidInput as error:
        if error.code != "invalid_template":
            raise
    learned = [i for i, message in enumerate(messages) if message.role == "assistant" and message.weight != 0]
    examples = [encode_answer(model, messages[:i], messages[i], functions) for i in learned]
    return None if any(e is None for e in examples) else [e for e in examples if e is not None]


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


def encode_answer(
    model: Pretrained, prompt: Sequence[Message], answer: Message, functions: Sequence[Function] = ()
) -> Example | None:
    """`answer` as a written turn after `prompt`, exactly as that was served; earlier turns are context only."""
    prompt_ids, answer_ids = model.chat_format.render_answer(prompt, answer, functions)
    return encode_tokens(model, prompt_ids, answer_ids)


def encode_tokens(
    model: Pretrained, prompt: Sequence[int], answer: Sequence[int], logprobs: Sequence[float] | None = None
) -> Example | None:
    """Sampled tokens after a rendered prompt; `logprobs` of the answer's tokens become the reference."""
    example = _fitting(model, [*prompt, *answer], [*(0 for _ in prompt), *(1 for _ in answer)])
    if example is None or logprobs is None:
        return example
    return replace(example, reference_logprobs=(*(0.0 for _ in prompt), *logprobs))


def _fitting(model: Pretrained, ids: Sequence[int], mask: Sequence[int]) -> Example | None:
    if len(ids) > model.config.max_position_embeddings:
        return None
    # A template without a beginning-of-sequence token may begin with an assistant turn: its first token has no past.
    return Example(tuple(ids), (0.0, *(float(weight) for weight in mask[1:])))


def _listed(lines: Sequence[int], most: int = 5) -> str:
    shown = ", ".join(str(line) for line in lines[:most])
    return f"line {shown}" + (f" and {len(lines) - most} more" if len(lines) > most else "")
