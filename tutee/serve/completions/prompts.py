"""Bare prompts: texts or token ids, one or many, and how many of them go through the engine a few at a time.

`prompt` of completions and `input` of embeddings have the same four forms. Text becomes ids as a text that stands alone
(`Tokenizer.encode_document`): no chat template, and special tokens written in it count. Does not know what is done with
the answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from tutee.engine.readout import Readout
from tutee.engine.request import Chunk, SamplingParams, check_prompt
from tutee.errors import Busy, InvalidInput
from tutee.serve.body import Fields
from tutee.serve.served import Prompt, Served
from tutee.serve.streaming import Tap

AT_ONCE = 64
"""Requests of one caller's batch with the engine at a time: enough to fill a step, few enough to leave room."""

Bare = str | list[int]
"""A prompt as it was given."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to come."""

    ids: Sequence[int]
    params: SamplingParams
    readout: Readout | None = None


def read_prompts(body: Fields, name: str, *, most: int) -> list[Bare]:
    """A string, a list of strings, a list of token ids, or a list of such lists, as a list of prompts.

    Raises:
        InvalidInput: missing, empty, too many, or of another type, naming the item.
    """
    body.need(name)
    value = body.take(name)
    if not isinstance(value, str | list):
        body.refuse(name, "must be a string, a list of strings, token ids, or a list of lists of those", "invalid_type")
    if not value:
        body.refuse(name, "must not be empty", "invalid_value")
    if isinstance(value, str) or all(_is_id(item) for item in value):
        return [value]
    if len(value) > most:
        body.refuse(name, f"has {len(value)} items; at most {most} are allowed", "array_above_max_length")
    for i, item in enumerate(value):
        if not isinstance(item, type(value[0])) or not _is_prompt(item):
            body.refuse(f"{name}[{i}]", "must be a string or a list of token ids, like the first item", "invalid_type")
        if not item:
            body.refuse(f"{name}[{i}]", "must not be empty", "invalid_value")
    return value


def _is_id(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _is_prompt(item: object) -> bool:
    return isinstance(item, str) or (isinstance(item, list) and all(_is_id(id) for id in item))


def encode_prompts(served: Served, prompts: Sequence[Bare], params: SamplingParams, param: str) -> list[list[int]]:
    """Token ids of each prompt, checked against the model before the first of them runs.

    Raises:
        InvalidInput: ids outside the vocabulary (clients that count with another tokenizer send those), no room for the
            prompt and `max_tokens` in the context (`context_length_exceeded`), or a model that another server runs.
    """
    model, limit = served.model, served.engine.context_length
    out = []
    for i, prompt in enumerate(prompts):
        at = param if len(prompts) == 1 else f"{param}[{i}]"
        ids = model.tokenizer.encode_document(prompt) if isinstance(prompt, str) else prompt
        try:
            check_prompt(ids, params, model.config.vocab_size, limit)
        except InvalidInput as error:
            where = at if error.param in ("prompt", "messages") else error.param
            raise InvalidInput(error.message, param=where, code=error.code or "invalid_value") from None
        if len(ids) + (params.max_tokens or 0) > limit:
            raise InvalidInput(
                f"This model's maximum context length is {limit} tokens, but {len(ids)} are in the prompt and "
                f"{params.max_tokens} were asked for.",
                param=at,
                code="context_length_exceeded",
            )
        out.append(ids)
    return out


async def in_turn(
    tap: Tap, served: Served, asks: Sequence[Ask], owner: str, at_once: int = AT_ONCE
) -> AsyncIterator[list[tuple[int, Chunk]]]:
    """Run the requests, `at_once` at a time; (index of the request, chunk) pairs as they come.

    Raises:
        TuteeError: one of them failed. Busy: not even the first found a place in the queue.
    """
    waiting, running = deque(asks), 0

    def fill() -> None:
        nonlocal running
        while waiting and running < at_once:
            ask = waiting[0]
            try:
                tap.submit(served, Prompt((), ask.ids), [ask.params], owner, ask.readout)
            except Busy:
                if not running:
                    raise
                return  # one of ours will end, and then there is a place
            waiting.popleft()
            running += 1

    fill()
    async for batch in tap:
        for index, chunk in batch:
            if chunk.finish_reason in ("error", "abort"):
                raise tap.failure(index)
            running -= chunk.finish_reason is not None
        fill()
        yield batch
