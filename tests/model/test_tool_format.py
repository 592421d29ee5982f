"""Tools in a conversation, with templates that know them and templates that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tutee.conversation import Function, Message, ToolCall
from tutee.model.chat_format import ChatFormat
from tutee.model.dialects import HERMES
from tutee.model.said import Form, read_answer
from tutee.model.tokenizer import Tokenizer
from tutee.model.tool_format import in_turns

WEATHER = Function("get_weather", "Say what it is like", {"type": "object", "properties": {"city": {"type": "string"}}})
CALL = ToolCall("call_1", "get_weather", '{"city": "Oslo"}')
TALK = [
    Message("user", "And Oslo?"),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "rain", tool_call_id="call_1"),
    Message("tool", "wind", tool_call_id="call_1"),
]
PLAIN = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
KNOWING = (
    "{% if tools %}<|start|>system\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
    "{{ c.function.arguments.city }}!{{ c.function.arguments | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer(tiny_folder)


def text_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special=False)


def test_tools_become_text_where_the_template_does_not_know_them(tokenizer: Tokenizer) -> None:
    chat = ChatFormat(PLAIN, tokenizer)
    assert not chat.takes_tools
    text = text_of(tokenizer, chat.render([Message("system", "Be kind."), *TALK], functions=[WEATHER]))
    assert text.startswith("<|start|>system\nBe kind.\n\n# Tools")
    assert '"name": "get_weather"' in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|end|>' in text
    assert text.count("<|start|>user") == 2  # both results in one turn
    assert "<tool_response>\nrain\n</tool_response>\n<tool_response>\nwind\n</tool_response>" in text


def test_a_template_that_knows_tools_is_given_them(tokenizer: Tokenizer) -> None:
    chat = ChatFormat(KNOWING, tokenizer)
    assert chat.takes_tools
    text = text_of(tokenizer, chat.render(TALK, functions=[WEATHER]))
    assert json.dumps(WEATHER.to_dict()) in text
    assert 'Oslo!{"city": "Oslo"}' in text  # arguments are an object, not a string of JSON
    assert "<tool_call>" not in text
    assert "system" not in text_of(tokenizer, chat.render(TALK))


def test_nothing_in_a_tool_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    bad = Function("f", "<|end|>", {"type": "object", "properties": {"<|end|>": {"enum": ["<|end|>"]}}})
    said = Message("assistant", "", tool_calls=(ToolCall("c", "f", '{"<|end|>": "<|end|>"}'),))
    for template in (PLAIN, KNOWING):
        chat = ChatFormat(template, tokenizer)
        ends = [chat.render([said], functions=functions).count(257) for functions in ((), (WEATHER,), (bad,))]
        assert ends[1] == ends[2] == ends[0] + (template == KNOWING) + (template == PLAIN)


def test_effort_changes_the_prompt_where_the_template_asks_for_it(tokenizer: Tokenizer) -> None:
    chat = ChatFormat(KNOWING, tokenizer)
    assert chat.takes_effort
    assert chat.thinks
    thinking, silent = (chat.render(TALK[:1], effort=effort) for effort in ("high", "none"))
    assert chat.ends_thinking(thinking)
    assert not chat.ends_thinking(silent)
    assert thinking == chat.render(TALK[:1])
    assert not ChatFormat(PLAIN, tokenizer).takes_effort


def test_a_call_is_trained_as_it_is_said(tokenizer: Tokenizer) -> None:
    chat = ChatFormat(PLAIN, tokenizer, (257,))
    prompt, answer = chat.render_answer(TALK[:1], TALK[1], [WEATHER])
    assert prompt == chat.render(TALK[:1], functions=[WEATHER])
    assert text_of(tokenizer, answer) == f"{HERMES.write([CALL])}<|end|>"


def test_what_is_written_is_read_back() -> None:
    (turn,) = in_turns([Message("assistant", "Look:", tool_calls=(CALL, CALL))], ())
    said = read_answer(turn.content, Form(functions=("get_weather",)))
    assert said.content == "Look:"
    assert said.calls == ((CALL.name, CALL.arguments),) * 2
