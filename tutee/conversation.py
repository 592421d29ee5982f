"""Messages: what people and models say to each other, the type that every layer passes around.

Knows the shape of a chat message as the OpenAI API writes it, and how to check one. Does not know how a model renders
it (`model/chat_format.py`) nor where it is stored (`store/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from tutee.errors import InvalidInput

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant asks to be called; `arguments` is a JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Function:
    """A tool that the assistant may ask to be called; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False
    """Whether arguments must fit the schema even where the model decides by itself to call."""

    def to_dict(self) -> dict[str, Any]:
        """The tool as OpenAI's JSON, as chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` (0 or 1, assistant only) says whether training learns from it; `reasoning` (assistant only) is
    what was thought before it."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    weight: float | None = None
    reasoning: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The message as OpenAI's JSON, without absent fields."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            out["name"] = self.name
        if self.tool_calls:
            out["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        if self.weight is not None:
            out["weight"] = self.weight
        if self.reasoning is not None:
            out["reasoning_content"] = self.reasoning
        return out


def merge_system_messages(messages: Sequence[Message]) -> list[Message]:
    """Messages as chat templates want them: `developer` is `system`, and the leading system messages are one."""
    plain = [replace(message, role="system") if message.role == "developer" else message for message in messages]
    count = next((i for i, message in enumerate(plain) if message.role != "system"), len(plain))
    if count < 2:
        return plain
    merged = replace(plain[0], content="\n\n".join(message.content for message in plain[:count]))
    return [merged, *plain[count:]]


def parse_messages(raw: object, param: str = "messages") -> list[Message]:
    """Check a JSON list of chat messages and return them.

    Raises:
        InvalidInput: naming the field at fault, such as `messages[2].role`.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise InvalidInput(f"'{param}' must be a list of messages.", param=param, code="invalid_type")
    if not raw:
        raise InvalidInput(f"'{param}' must hold at least one message.", param=param, code="invalid_value")
    return [parse_message(item, f"{param}[{i}]") for i, item in enumerate(raw)]


def parse_message(raw: object, param: str) -> Message:
    """Check one JSON message. Content may be a string, null (with tool calls) or a list of text parts."""
    if not isinstance(raw, Mapping):
        raise InvalidInput(f"'{param}' must be an object.", param=param, code="invalid_type")
    role = raw.get("role")
    if role is None:
        raise InvalidInput(f"'{param}.role' is missing.", param=f"{param}.role", code="missing_required_parameter")
    if role not in get_args(Role):
        raise InvalidInput(
            f"'{param}.role' is {role!r}; it must be one of {', '.join(get_args(Role))}.",
            param=f"{param}.role",
            code="invalid_value",
        )
    tool_calls = _parse_tool_calls(raw.get("tool_calls"), f"{param}.tool_calls")
    if tool_calls and role != "assistant":
        raise InvalidInput(
            f"'{param}.tool_calls' is only for assistant messages.", param=f"{param}.tool_calls", code="invalid_value"
        )
    content = _parse_content(raw.get("content"), f"{param}.content", optional=bool(tool_calls))
    weight = raw.get("weight")
    if weight is not None and (role != "assistant" or isinstance(weight, bool) or weight not in (0, 1)):
        raise InvalidInput(
            f"'{param}.weight' must be 0 or 1, on an assistant message.", param=f"{param}.weight", code="invalid_value"
        )
    return Message(
        role=cast(Role, role),
        content=content,
        name=_optional_string(raw, "name", param),
        tool_calls=tool_calls,
        tool_call_id=_optional_string(raw, "tool_call_id", param),
        weight=None if weight is None else float(weight),
        reasoning=_parse_reasoning(raw, param) if role == "assistant" else None,
    )


def _parse_reasoning(raw: Mapping[str, Any], param: str) -> str | None:
    """Servers name it `reasoning` or `reasoning_content`, and clients send back what they were given."""
    found = _optional_string(raw, "reasoning_content", param)
    return found if found is not None else _optional_string(raw, "reasoning", param)


def _parse_content(raw: object, param: str, optional: bool) -> str:
    if isinstance(raw, str):
        return raw
    if raw is None:
        if optional:
            return ""
        raise InvalidInput(f"'{param}' is missing.", param=param, code="missing_required_parameter")
    if isinstance(raw, Sequence) and not isinstance(raw, bytes):
        return "".join(_parse_part(part, f"{param}[{i}]") for i, part in enumerate(raw))
    raise InvalidInput(f"'{param}' must be a string or a list of parts.", param=param, code="invalid_type")


def _parse_part(raw: object, param: str) -> str:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("type"), str):
        raise InvalidInput(f"'{param}' must be an object with a 'type'.", param=param, code="invalid_type")
    if raw["type"] not in ("text", "refusal"):
        raise InvalidInput(
            f"'{param}' has type {raw['type']!r}, but this model reads text only.", param=param, code="invalid_value"
        )
    text = raw.get(raw["type"])
    if not isinstance(text, str):
        raise InvalidInput(f"'{param}.text' must be a string.", param=f"{param}.text", code="invalid_type")
    return text


def _parse_tool_calls(raw: object, param: str) -> tuple[ToolCall, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise InvalidInput(f"'{param}' must be a list.", param=param, code="invalid_type")
    calls = []
    for i, item in enumerate(raw):
        function = item.get("function") if isinstance(item, Mapping) else None
        fields: tuple[Any, ...] = ()
        if isinstance(item, Mapping) and isinstance(function, Mapping):
            fields = (item.get("id"), function.get("name"), function.get("arguments"))
        if not fields or not all(isinstance(field, str) for field in fields):
            raise InvalidInput(
                f"'{param}[{i}]' must have string 'id', 'function.name' and 'function.arguments'.",
                param=f"{param}[{i}]",
                code="invalid_type",
            )
        calls.append(ToolCall(*cast(tuple[str, str, str], fields)))
    return tuple(calls)


def _optional_string(raw: Mapping[str, Any], key: str, param: str) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"'{param}.{key}' must be a string.", param=f"{param}.{key}", code="invalid_type")
    return value
