"""What a response says, as items that grow, and the events that tell of it.

The same reading makes the stream's events and the output in one piece, so one joined is the other, ids included. An
item is open while its text comes, and closed when something else begins: reasoning, words, calls of functions. Does not
know how events are sent, nor where the response is kept.
"""

from __future__ import annotations

from typing import Any

from tutee.engine.request import Chunk
from tutee.ids import new_id
from tutee.model.said import AnswerReader, Arguments, CallBegun, Form, Piece, Thought, Words
from tutee.serve.chat.logprobs import LogprobEntries

Event = dict[str, Any]
"""An event of the stream, all but its `sequence_number`."""


class Output:
    """The output of one response as it is told.

    Args:
        entries: reads log-probs, if they were asked for.
    """

    def __init__(self, form: Form, entries: LogprobEntries | None) -> None:
        self.items: list[dict[str, Any]] = []
        """As OpenAI's JSON. The last one may still be growing; its text is put in when it is closed."""
        self.reasoning_tokens = 0
        self.finish_reason: str | None = None
        self._reader = None if form.plain else AnswerReader(form)
        self._entries = entries
        self._scored: list[dict[str, Any]] = []
        self._text: list[str] = []
        self._events: list[Event] = []

    def hear(self, chunk: Chunk) -> list[Event]:
        """Take a chunk; the events that it causes."""
        self._events = []
        scored = self._entries.add(chunk) if self._entries is not None else []
        pieces = self._read(chunk)
        for piece in pieces:
            self._tell(piece, scored)
            if isinstance(piece, Words):
                scored = []
        if scored and self._open == "message":
            self._delta("", scored)
        if chunk.finish_reason is not None:
            self._end(chunk.finish_reason)
        return self._events

    def _read(self, chunk: Chunk) -> list[Piece]:
        if self._reader is None:
            return [Words(chunk.text)] if chunk.text else []
        if self._reader.thinking:
            self.reasoning_tokens += len(chunk.token_ids)
        return self._reader.push(chunk.text, last=chunk.finish_reason is not None)

    @property
    def _open(self) -> str | None:
        """The type of the item that is growing."""
        item = self.items[-1] if self.items else None
        return item["type"] if item is not None and item["status"] == "in_progress" else None

    def _tell(self, piece: Piece, scored: list[dict[str, Any]]) -> None:
        match piece:
            case Words(text):
                self._need("message")
                self._delta(text, scored)
            case Thought(text):
                self._need("reasoning")
                self._text.append(text)
                self._say("response.reasoning_text.delta", content_index=0, delta=text)
            case CallBegun(_, name):
                self._close("completed")
                self._begin({"id": new_id("fc_"), "type": "function_call", "call_id": new_id("call_"), "name": name})
            case Arguments(_, text):
                self._text.append(text)
                self._say("response.function_call_arguments.delta", delta=text)

    def _need(self, kind: str) -> None:
        """Have an item of this type open."""
        if self._open == kind:
            return
        self._close("completed")
        if kind == "message":
            self._begin({"id": new_id("msg_"), "type": kind, "role": "assistant", "content": []})
            self._say("response.content_part.added", content_index=0, part=_text_part("", []))
        else:
            self._begin({"id": new_id("rs_"), "type": kind, "summary": [], "content": []})

    def _begin(self, item: dict[str, Any]) -> None:
        item["status"] = "in_progress"
        self._text, self._scored = [], []
        self.items.append(item)
        blank = item | ({"arguments": ""} if item["type"] == "function_call" else {})
        self._events.append(
            {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": dict(blank)}
        )

    def _delta(self, text: str, scored: list[dict[str, Any]]) -> None:
        self._text.append(text)
        self._scored += scored
        self._say("response.output_text.delta", content_index=0, delta=text, logprobs=scored)

    def _say(self, type: str, **fields: Any) -> None:
        """An event about the item that is open."""
        place = {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}
        self._events.append({"type": type} | place | fields)

    def _close(self, status: str) -> None:
        """Say that the open item is whole, if there is one, and put its text in."""
        kind, text = self._open, "".join(self._text)
        if kind is None:
            return
        item = self.items[-1]
        if kind == "message":
            part = _text_part(text, self._scored)
            item["content"] = [part]
            self._say("response.output_text.done", content_index=0, text=text, logprobs=self._scored)
            self._say("response.content_part.done", content_index=0, part=part)
        elif kind == "reasoning":
            item["content"] = [{"type": "reasoning_text", "text": text}]
            self._say("response.reasoning_text.done", content_index=0, text=text)
        else:
            item["arguments"] = text
            self._say("response.function_call_arguments.done", arguments=text, name=item["name"])
        item["status"] = status
        self._events.append(
            {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": dict(item)}
        )

    def _end(self, finish_reason: str) -> None:
        self.finish_reason = finish_reason
        if finish_reason in ("error", "abort"):
            self.cut()
            return
        if not self.items:
            self._need("message")  # nothing was said, and that is the answer
        self._close("completed" if finish_reason == "stop" else "incomplete")

    def cut(self) -> None:
        """No more will come: what is open stays as far as it was said."""
        self._close("incomplete")


def _text_part(text: str, scored: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": scored}
