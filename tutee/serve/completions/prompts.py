"""Bare prompts: texts or token ids, one or many, and how many of them go through the engine a few at a time.

`prompt` of completions and `input` of embeddings have the same four forms. Text becomes ids as a text that stands alone
(`Tokenizer.encode_document`): no chat template, and special tokens written in it count. Does not know what is done with
the answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tutee.engine.readout import Readout
from tutee.engine.request import Chunk, SamplingParams, check_prompt
from tutee.errors import Busy, InvalidInput, TuteeError
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


class Turns:
    """Requests that go to the engine a few at a time. Used in one loop.

    Args:
        at_once: how many may run together.

    Raises:
        Busy: not even the first found a place in the queue. What else submitting raises; later that breaks the tap.
    """

    def __init__(self, tap: Tap, served: Served, asks: Sequence[Ask], owner: str, at_once: int = AT_ONCE) -> None:
        self.tap = tap
        self._served, self._owner, self._at_once = served, owner, at_once
        self._waiting = deque(asks)
        self._running = 0
        try:
            self._fill()
        except BaseException:
            tap.abort()
            raise

    @property
    def over(self) -> bool:
        """Whether all have ended, or one of them broke off."""
        return self.tap.broken is not None or (self.tap.over and not self._waiting)

    def told(self) -> list[tuple[int, Chunk]]:
        """(index of the request, chunk) pairs since the last time, up to where one broke off (`Tap.told`)."""
        batch = self.tap.told()
        self._running -= sum(chunk.finish_reason is not None for _, chunk in batch)
        if self.tap.broken is None:
            try:
                self._fill()
            except TuteeError as error:
                self.tap.broken = error
        return batch

    async def ended(self) -> None:
        """Wait for all of them. Raises why one broke off."""
        while not self.over:
            await self.tap.news.wait()
            self.told()
        self.tap.check()

    def _fill(self) -> None:
        while self._waiting and self._running < self._at_once:
            ask = self._waiting[0]
            try:
                self.tap.submit(self._served, Prompt((), ask.ids), [ask.params], self._owner, ask.readout)
            except Busy:
                if not self._running:
                    raise
                return  # one of ours will end, and then there is a place
            self._waiting.popleft()
            self._running += 1
