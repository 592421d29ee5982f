"""A model's answer as graders see it: the `sample` of `{{ sample.output_text }}` and of `grade(sample, item)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    Args:
        text: what it says (`sample.output_text`).
        tools: its tool calls, as in an assistant message (`sample.output_tools`).
        finish_reason: `stop`, `length` or `tool_calls`.
        model: who answered, if that is known.
        more: further fields of `sample`, such as a row of an eval's file brings along.
    """

    text: str
    tools: Sequence[Mapping[str, Any]] = ()
    finish_reason: str = "stop"
    model: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def namespace(self) -> dict[str, Any]:
        """Plain JSON values: `output_text`, `output_tools`, `choices`, and `output_json` where the text is JSON."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tools:
            message["tool_calls"] = [dict(call) for call in self.tools]
        out = {
            **self.more,
            "output_text": self.text,
            "output_tools": [dict(call) for call in self.tools],
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
        }
        if self.model is not None:
            out["model"] = self.model
        try:  # strictly: half a surrogate pair, which models do write, is no text that could be sent on
            out["output_json"] = msgspec.json.decode(self.text)
        except (msgspec.MsgspecError, RecursionError):
            out.pop("output_json", None)
        return out
