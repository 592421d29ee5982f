"""Items: what responses and conversations are made of, from a client's JSON to messages for the model.

An item is kept as the JSON that a client would read back: with an id, a status and parts of content, whatever short
form it came in. Messages, calls of functions, their results and reasoning are understood; other types are refused by
name. Does not know where items are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from tutee.conversation import Message, ToolCall
from tutee.errors import InvalidInput
from tutee.ids import new_id
from tutee.serve.body import Fields
from tutee.serve.replies import reply
from tutee.store.openai_conversations import fresh_id

Item = dict[str, Any]
Lookup = Callable[[str], Item | None]
"""Finds an item of the caller's by its id."""

MOST_ITEMS = 10_000
ROLES = ("user", "assistant", "system", "developer")
STATUSES = ("in_progress", "completed", "incomplete")
LONGEST_ID = 128


def read_input(body: Fields, find: Lookup, name: str = "input") -> list[Item]:
    """`input` as items: a string is one message of the user's.

    Raises:
        InvalidInput: naming the field at fault.
    """
    value = body.take(name)
    if isinstance(value, str):
        return [_message("user", [{"type": "input_text", "text": value}])]
    return read_items(body, find, name)


def read_items(body: Fields, find: Lookup, name: str = "items", most: int = MOST_ITEMS) -> list[Item]:
    """A list of items, each with an id that no other has. Raises as `read_input`."""
    out: list[Item] = []
    for i, raw in enumerate(body.array(name, most=most) or ()):
        if not isinstance(raw, dict):
            body.refuse(f"{name}[{i}]", "must be an object", "invalid_type")
        out.append(_read_item(Fields(raw, body.at(f"{name}[{i}]")), find))
    seen: set[str] = set()
    for item in out:
        if item["id"] in seen:  # a client that plays back what it was told twice
            item["id"] = fresh_id(item["id"])
        seen.add(item["id"])
    return out


def item_page(items: Sequence[Item], has_more: bool) -> Response:
    """A page of items; an empty one has empty ids, because the official client's types want strings."""
    ids = [item["id"] for item in items] or [""]
    return reply({"object": "list", "data": items, "has_more": has_more, "first_id": ids[0], "last_id": ids[-1]})


def _read_item(fields: Fields, find: Lookup) -> Item:
    kind = fields.string("type") or ("message" if "role" in fields.raw else "item_reference")
    reader = _READERS.get(kind)
    if reader is not None:
        return reader(fields)
    if kind == "item_reference":
        id = fields.need_string("id", most=LONGEST_ID)
        found = find(id)
        if found is None:
            fields.refuse("id", f"names '{id}', and there is no such item", "item_not_found")
        return dict(found)
    known = ", ".join([*_READERS, "item_reference"])
    return fields.refuse("type", f"is {kind!r}; this server takes {known}", "unsupported_value")


def _read_message(fields: Fields) -> Item:
    fields.need("role")
    role = fields.choice("role", ROLES)
    assert role is not None
    fields.need("content")
    content = fields.take("content")
    written = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        parts = [_text_part(written, content)]
    elif isinstance(content, list):
        parts = [_read_part(fields, i, part, written) for i, part in enumerate(content)]
    else:
        fields.refuse("content", "must be a string or a list of parts", "invalid_type")
    fields.choice("phase", ("commentary", "final_answer"))
    return _message(role, parts, _id(fields, "msg_"), _status(fields))


def _read_part(fields: Fields, i: int, part: Any, written: str) -> Item:
    at = f"content[{i}]"
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        fields.refuse(at, "must be an object with a 'type'", "invalid_type")
    if kind not in ("input_text", "output_text", "text", "refusal"):
        fields.refuse(at, f"has type {kind!r}, but this model reads text only", "invalid_value")
    name = "refusal" if kind == "refusal" else "text"
    text = part.get(name)
    if not isinstance(text, str):
        fields.refuse(f"{at}.{name}", "must be a string", "invalid_type")
    return {"type": "refusal", "refusal": text} if kind == "refusal" else _text_part(written, text)


def _text_part(kind: str, text: str) -> Item:
    return {"type": kind, "text": text} | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})


def _message(role: str, parts: list[Item], id: str | None = None, status: str = "completed") -> Item:
    return {"id": id or new_id("msg_"), "type": "message", "status": status, "role": role, "content": parts}


def _read_call(fields: Fields) -> Item:
    return {
        "id": _id(fields, "fc_"),
        "type": "function_call",
        "status": _status(fields),
        "call_id": fields.need_string("call_id", most=LONGEST_ID),
        "name": fields.need_string("name", most=128),
        "arguments": fields.need_string("arguments", least=0),
    }


def _read_call_output(fields: Fields) -> Item:
    fields.need("output")
    output = fields.take("output")
    if isinstance(output, list):
        output = [_read_part(fields, i, part, "input_text") for i, part in enumerate(output)]
    elif not isinstance(output, str):
        fields.refuse("output", "must be a string or a list of parts", "invalid_type")
    return {
        "id": _id(fields, "fco_"),
        "type": "function_call_output",
        "status": _status(fields),
        "call_id": fields.need_string("call_id", most=LONGEST_ID),
        "output": output,
    }


def _read_reasoning(fields: Fields) -> Item:
    """What the model thought; `encrypted_content` of other servers cannot be read here and is dropped."""
    fields.take("encrypted_content")
    content = [_reasoning_part(fields, "content", i, part) for i, part in enumerate(fields.array("content") or ())]
    summary = [_reasoning_part(fields, "summary", i, part) for i, part in enumerate(fields.array("summary") or ())]
    return {
        "id": _id(fields, "rs_"),
        "type": "reasoning",
        "status": _status(fields),
        "summary": [{"type": "summary_text", "text": text} for text in summary],
        "content": [{"type": "reasoning_text", "text": text} for text in content],
    }


def _reasoning_part(fields: Fields, name: str, i: int, part: Any) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        fields.refuse(f"{name}[{i}]", "must be an object with a string 'text'", "invalid_type")
    text: str = part["text"]
    return text


def _id(fields: Fields, prefix: str) -> str:
    return fields.string("id", most=LONGEST_ID) or new_id(prefix)


def _status(fields: Fields) -> str:
    """Nothing that is said to us is still in progress."""
    return "incomplete" if fields.choice("status", STATUSES) == "incomplete" else "completed"


_READERS: Mapping[str, Callable[[Fields], Item]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_call_output,
    "reasoning": _read_reasoning,
}


def to_messages(items: Sequence[Item], instructions: str | None, param: str = "input") -> list[Message]:
    """The items as chat messages, instructions first; reasoning goes to the turn of the assistant's that it led to.

    Raises:
        InvalidInput: a result without its call, or a call without its result.
    """
    out = [Message("system", instructions)] if instructions else []
    thought: str | None = None
    open_calls: dict[str, None] = {}
    known_calls: set[str] = set()
    for item in items:
        kind = item["type"]
        if kind == "reasoning":
            thought = "\n".join(part["text"] for part in item["content"] or item["summary"]) or None
        elif kind == "message":
            reasoning = thought if item["role"] == "assistant" else None
            out.append(Message(item["role"], text_of(item["content"]), reasoning=reasoning))
            thought = None
        elif kind == "function_call":
            _add_call(out, ToolCall(item["call_id"], item["name"], item["arguments"]), thought)
            known_calls.add(item["call_id"])
            open_calls[item["call_id"]] = thought = None
        else:
            if item["call_id"] not in known_calls:
                message = f"No tool call found for function call output with call_id {item['call_id']}."
                raise InvalidInput(message, param=param, code="invalid_value")
            open_calls.pop(item["call_id"], None)
            out.append(Message("tool", text_of(item["output"]), tool_call_id=item["call_id"]))
    for call_id in open_calls:
        raise InvalidInput(f"No tool output found for function call {call_id}.", param=param, code="invalid_value")
    return out


def _add_call(out: list[Message], call: ToolCall, thought: str | None) -> None:
    """One more call of the assistant's turn, which the turn's words or its other calls may have begun."""
    last = out[-1] if out else None
    if last is not None and last.role == "assistant":
        reasoning = last.reasoning if thought is None else thought
        out[-1] = Message("assistant", last.content, tool_calls=(*last.tool_calls, call), reasoning=reasoning)
    else:
        out.append(Message("assistant", "", tool_calls=(call,), reasoning=thought))


def text_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a string or of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)
