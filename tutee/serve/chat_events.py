"""The events of one streamed chat completion, as bytes.

Almost all events differ in nothing but their text. They are encoded once with a mark in its place; what is before and
after the mark then goes around each piece of text. Knows OpenAI's `chat.completion.chunk`, not where texts come from.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tutee.serve.streaming import encode, event

_MARK = "\0text\0"


class Delta(msgspec.Struct, omit_defaults=True):
    """What one event adds to a choice."""

    role: str | None = None
    content: str | None = None


class EventChoice(msgspec.Struct):
    """One choice of one event; `finish_reason` is null before the last."""

    index: int
    delta: Delta
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class Event(msgspec.Struct):
    """A `chat.completion.chunk`."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[EventChoice] = []
    usage: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "chat.completion.chunk"
    service_tier: str = "default"


class ChatEvents:
    """Writes the events of one request with `n` choices."""

    def __init__(self, blank: Event, n: int) -> None:
        """`blank` has what all events have in common; with a usage of None, all say so until the last."""
        self._event = blank
        self._n = n
        around = [self._write(EventChoice(index, Delta(content=_MARK))).split(encode(_MARK)) for index in range(n)]
        self._around = [(before, after) for before, after in around]

    def _write(self, *choices: EventChoice) -> bytes:
        self._event.choices = list(choices)
        return event(self._event)

    def roles(self) -> bytes:
        """All first sights, in order: the official client's helper raises IndexError on any other."""
        return b"".join(self._write(EventChoice(i, Delta(role="assistant", content=""))) for i in range(self._n))

    def text(self, index: int, text: str) -> bytes:
        """More text of a choice."""
        before, after = self._around[index]
        return before + encode(text) + after

    def scored(self, index: int, text: str, entries: list[dict[str, Any]]) -> bytes:
        """More text of a choice with the log-probs of its tokens."""
        logprobs: dict[str, Any] = {"content": entries, "refusal": None}
        return self._write(EventChoice(index, Delta(content=text), logprobs))

    def end(self, index: int, finish_reason: str) -> bytes:
        """The last event of a choice."""
        return self._write(EventChoice(index, Delta(), None, finish_reason))

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The token counts, after all choices."""
        self._event.usage = usage
        return self._write()
