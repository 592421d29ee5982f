"""The events of one streamed chat completion, as bytes.

Almost all events differ in nothing but their text: they come out of a `Mould`. Knows OpenAI's `chat.completion.chunk`,
not where texts come from.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from tutee.serve.streaming import Mould, encode, event

_PADDED_TO = 32
"""Bytes: obfuscated events are filled up to a multiple of this, so that their length does not tell the token."""


class CalledFunction(msgspec.Struct, omit_defaults=True):
    """The function of a tool delta; its name comes once, its arguments in pieces."""

    arguments: str
    name: str | None = None


class ToolDelta(msgspec.Struct, omit_defaults=True):
    """More of call number `index`; `id` and `type` come once."""

    index: int
    function: CalledFunction
    id: str | None = None
    type: str | None = None


class Delta(msgspec.Struct, omit_defaults=True):
    """What one event adds to a choice. Thoughts have two names, because clients read the one or the other."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolDelta] | None = None


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
    obfuscation: str | msgspec.UnsetType = msgspec.UNSET


class ChatEvents:
    """Writes the events of one request with `n` choices."""

    def __init__(
        self, blank: Event, n: int, *, obfuscate: bool = False, usage: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        """
        Args:
            blank: what all events have in common; with a usage of None, all say so until the last.
            obfuscate: give each event a length that does not tell its text's.
            usage: the token counts so far, if every event is to have them.
        """
        self._event = blank
        self._n = n
        self._obfuscate = obfuscate
        self._usage = usage
        self._moulds: list[Mould] = []
        if not obfuscate and usage is None:
            for index in range(n):
                self._event.choices = [EventChoice(index, Delta(content=Mould.MARK))]
                self._moulds.append(Mould(self._event))

    def _write(self, *choices: EventChoice) -> bytes:
        self._event.choices = list(choices)
        if self._usage is not None:
            self._event.usage = self._usage()
        if self._obfuscate:
            self._event.obfuscation = ""
            self._event.obfuscation = secrets.token_hex(_PADDED_TO)[: -len(encode(self._event)) % _PADDED_TO]
        return event(self._event)

    def roles(self, content: str | None = "") -> bytes:
        """All first sights, in order: the official client's helper raises IndexError on any other.

        Args:
            content: None where no words will come.
        """
        deltas = [EventChoice(index, Delta(role="assistant", content=content)) for index in range(self._n)]
        return b"".join(map(self._write, deltas))

    def text(self, index: int, text: str) -> bytes:
        """More text of a choice."""
        if not self._moulds:
            return self._write(EventChoice(index, Delta(content=text)))
        return self._moulds[index].fill(text)

    def scored(self, index: int, text: str, entries: list[dict[str, Any]]) -> bytes:
        """More text of a choice with the log-probs of its tokens."""
        logprobs: dict[str, Any] = {"content": entries, "refusal": None}
        return self._write(EventChoice(index, Delta(content=text), logprobs))

    def thought(self, index: int, text: str) -> bytes:
        """More of what a choice thinks."""
        return self._write(EventChoice(index, Delta(reasoning=text, reasoning_content=text)))

    def call(self, index: int, call: int, id: str, name: str) -> bytes:
        """A call begins: its id and name, which come once, because clients join what comes twice."""
        delta = ToolDelta(call, CalledFunction("", name), id, "function")
        return self._write(EventChoice(index, Delta(tool_calls=[delta])))

    def arguments(self, index: int, call: int, text: str) -> bytes:
        """More of a call's arguments."""
        return self._write(EventChoice(index, Delta(tool_calls=[ToolDelta(call, CalledFunction(text))])))

    def end(self, index: int, finish_reason: str) -> bytes:
        """The last event of a choice."""
        return self._write(EventChoice(index, Delta(), None, finish_reason))

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The token counts, after all choices."""
        self._usage = None
        self._event.usage = usage
        return self._write()
