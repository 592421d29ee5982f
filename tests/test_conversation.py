from typing import Any

import pytest

from tutee.conversation import Message, ToolCall, parse_messages
from tutee.errors import InvalidInput


def test_messages_round_trip() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    raw: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ada"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "content": "hello", "weight": 0.0},
    ]
    messages = parse_messages(raw)
    assert [message.to_dict() for message in messages] == raw
    assert messages[2].tool_calls == (ToolCall("c1", "f", "{}"),)


def test_text_parts_are_the_same_as_a_string() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse_messages([{"role": "user", "content": parts}]) == [Message("user", "ab")]


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ("hello", "messages"),
        ([], "messages"),
        ([3], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "image_url"}]}],
            "messages[1].content[0]",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "a", "weight": 1}], "messages[0].weight"),
        ([{"role": "assistant", "content": "a", "weight": 2}], "messages[0].weight"),
        ([{"role": "user", "content": "a", "name": 1}], "messages[0].name"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "messages[0].tool_calls[0]"),
    ],
)
def test_the_error_names_the_field(raw: object, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_messages(raw)
    assert caught.value.param == param
    assert caught.value.status == 400
