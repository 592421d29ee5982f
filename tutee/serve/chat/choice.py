"""One choice of a chat completion while it is told: what the engine says, taken apart into what clients read.

The same reading makes the stream's events and the message in one piece, so one joined is the other, with the same call
ids. Does not know how either is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tutee.engine.request import Chunk
from tutee.ids import new_id
from tutee.model.said import AnswerReader, Arguments, CallBegun, Form, Piece, Thought, Words
from tutee.serve.chat.logprobs import LogprobEntries


@dataclass(slots=True)
class Call:
    """A call of a function; `arguments` is a JSON text as far as it was written."""

    id: str
    name: str
    arguments: str = ""

    def view(self) -> dict[str, Any]:
        """As OpenAI's JSON."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(slots=True)
class Choice:
    """What one choice has said so far.

    Args:
        entries: reads its log-probs, if they were asked for.
        named: a function was chosen by its name; the end of its call is `stop`, as at OpenAI.
    """

    index: int
    form: Form
    entries: LogprobEntries | None
    named: bool = False
    reasoning_tokens: int = 0
    finish_reason: str | None = None
    calls: list[Call] = field(default_factory=list)
    _reader: AnswerReader | None = None
    _thoughts: list[str] = field(default_factory=list)
    _words: list[str] = field(default_factory=list)
    _scored: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = None if self.form.plain else AnswerReader(self.form)

    def says_only_words(self, chunk: Chunk) -> bool:
        """Whether a chunk is nothing but more words, to be given to `say`; all others go to `hear`."""
        return self._reader is None and self.entries is None and chunk.finish_reason is None

    def say(self, text: str) -> str:
        """Take words, and give them back."""
        self._words.append(text)
        return text

    def hear(self, chunk: Chunk) -> tuple[list[Piece], list[dict[str, Any]]]:
        """Take a chunk; (pieces, log-prob entries) that became certain with it."""
        scored = self.entries.add(chunk) if self.entries is not None else []
        self._scored += scored
        pieces = self._read(chunk)
        for piece in pieces:
            match piece:
                case Words(text):
                    self._words.append(text)
                case Thought(text):
                    self._thoughts.append(text)
                case CallBegun(_, name):
                    self.calls.append(Call(new_id("call_"), name))
                case Arguments(index, text):
                    self.calls[index].arguments += text
        if chunk.finish_reason is not None:
            called = self.calls and not self.named and chunk.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else chunk.finish_reason
        return pieces, scored

    def _read(self, chunk: Chunk) -> list[Piece]:
        if self._reader is None:
            return [Words(chunk.text)] if chunk.text else []
        if self._reader.thinking:
            self.reasoning_tokens += len(chunk.token_ids)
        return self._reader.push(chunk.text, last=chunk.finish_reason is not None)

    def view(self) -> dict[str, Any]:
        """The choice of an ended answer, as OpenAI's JSON."""
        words, thoughts = "".join(self._words), "".join(self._thoughts)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": words or (None if self.calls else ""),
            "refusal": None,
            "annotations": [],
        }
        if self.calls:
            message["tool_calls"] = [call.view() for call in self.calls]
        if self.form.thinks:
            message |= {"reasoning": thoughts or None, "reasoning_content": thoughts or None}
        logprobs = {"content": self._scored, "refusal": None} if self.entries is not None else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}
