"""Dialects of tool calls: found in templates, written as templates write them, and read back, whole and in pieces."""

from __future__ import annotations

import random

import pytest

from tests.conftest import write_tiny_model
from tests.model.templates import CHATML
from tests.model.tool_templates import MARKS, TEMPLATES
from tutee.conversation import Function, Message, ToolCall
from tutee.errors import InvalidInput
from tutee.model.chat_format import ChatFormat
from tutee.model.dialects import DIALECTS, HERMES, Dialect, dialect_of
from tutee.model.said import AnswerReader, Arguments, CallBegun, Form, Said, Words, read_answer
from tutee.model.tokenizer import Tokenizer

ROWS = {row.name: row for row in DIALECTS}
NAMES = ("get_weather", "get-time")
FUNCTIONS = tuple(Function(name) for name in NAMES)
CALLS = (ToolCall("A1b2C3d4E", NAMES[0], '{"city": "O\\"s}lo"}'), ToolCall("f5G6h7I8j", NAMES[1], "{}"))
SAID = tuple((call.name, call.arguments) for call in CALLS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("marked")
    write_tiny_model(folder, marks=MARKS)
    return Tokenizer(folder)


def form(dialect: Dialect) -> Form:
    return Form(thinks=True, functions=NAMES, dialect=dialect)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_shows_its_dialect(name: str, tokenizer: Tokenizer) -> None:
    assert ChatFormat(TEMPLATES[name], tokenizer).dialect is ROWS[name]


def test_without_signs_or_tools_it_is_the_common_one(tokenizer: Tokenizer) -> None:
    assert dialect_of("{{ tools }}") is HERMES
    said_only = CHATML + "{# [TOOL_CALLS] #}"
    assert ChatFormat(said_only, tokenizer).dialect is HERMES, "it is told of tools in words, and answers in kind"


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_are_written_as_the_template_writes_them(name: str, tokenizer: Tokenizer) -> None:
    chat, row = ChatFormat(TEMPLATES[name], tokenizer), ROWS[name]
    calls = CALLS if row.between is not None else CALLS[:1]
    question = [Message("user", "Well?")]
    prompt, answer = chat.render_answer(question, Message("assistant", "", tool_calls=calls), FUNCTIONS)
    text = tokenizer.decode(answer, skip_special=False)
    assert prompt == chat.render(question, functions=FUNCTIONS)
    for call in calls if name == "mistral-list" else ():  # ids that are given to calls, not said by the model
        text = text.replace(f', "id": "{call.id}"', "")
    assert text == f"{row.write(calls)}<|end|>"
    assert read_answer(text.removesuffix("<|end|>"), form(row)) == Said(None, None, SAID[: len(calls)])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_turn_with_calls_is_learned_whole(name: str, tokenizer: Tokenizer) -> None:
    chat, row = ChatFormat(TEMPLATES[name], tokenizer), ROWS[name]
    talk = [Message("user", "Well?"), Message("assistant", "", tool_calls=CALLS[:1])]
    after = [Message("tool", "rain", tool_call_id=CALLS[0].id), Message("assistant", "It rains.")]
    ids, mask = chat.render_training([*talk, *after], FUNCTIONS)
    learned = tokenizer.decode([id for id, m in zip(ids, mask, strict=True) if m], skip_special=False)
    assert learned.startswith(row.begin + row.before + NAMES[0])
    assert learned.endswith("<|end|>It rains.<|end|>")
    assert learned.count("<|end|>") == 2


@pytest.mark.parametrize("name", ["mistral-list", "mistral-id"])
def test_ids_of_other_servers_become_nine_letters(name: str, tokenizer: Tokenizer) -> None:
    chat = ChatFormat(TEMPLATES[name], tokenizer)
    call = ToolCall("call_0123456789abcdef", NAMES[0], "{}")
    talk = [Message("user", "?"), Message("assistant", "", tool_calls=(call,))]
    text = tokenizer.decode(chat.render([*talk, Message("tool", "rain", tool_call_id=call.id)]), skip_special=False)
    assert text.count(ROWS[name].call_id(call.id)) == (2 if name == "mistral-list" else 1)
    assert ROWS[name].call_id("A1b2C3d4E") == "A1b2C3d4E"


def test_calls_made_together_are_shown_one_after_the_other_where_a_template_takes_one(tokenizer: Tokenizer) -> None:
    chat = ChatFormat(TEMPLATES["llama"], tokenizer)
    talk = [Message("user", "?"), Message("assistant", "Let me see.", tool_calls=CALLS)]
    results = [Message("tool", f"result {call.id}", tool_call_id=call.id) for call in reversed(CALLS)]
    text = tokenizer.decode(chat.render([*talk, *results], functions=FUNCTIONS), skip_special=False)
    at = [text.index(part) for call in CALLS for part in (f'"{call.name}", "parameters"', f"result {call.id}")]
    assert at == sorted(at)
    with pytest.raises(InvalidInput, match="single tool-calls"):
        chat.render([*talk, results[0]], functions=FUNCTIONS)


def named(text: str, *marks: str) -> str:
    """A call of Mistral's newer form."""
    return "[TOOL_CALLS]get_weather" + "".join(marks) + text


TWO = '{"name": "get_weather", "parameters": {"a": 1}}; {"name": "get-time", "parameters": {}}'
LISTED = '{"name": "get_weather", "arguments": {"a": 1}}, {"name": "get-time", "arguments": {}}'
WEATHER, BOTH = (("get_weather", '{"a": 1}'),), (("get_weather", '{"a": 1}'), ("get-time", "{}"))
CASES: dict[str, tuple[str, str, Said]] = {
    "llama after the tag": ("llama", "<|python_tag|>" + TWO, Said(None, None, BOTH)),
    "llama at once": ("llama", " " + TWO.partition(";")[0], Said(None, None, WEATHER)),
    "llama after thoughts": ("llama", "<think>hm</think>\n" + TWO, Said("hm", None, BOTH)),
    "llama with its type": (
        "llama",
        '{"type": "function", "name": "get_weather", "parameters": {"a": 1}}',
        Said(None, None, WEATHER),
    ),
    "llama in another order": (
        "llama",
        '{"parameters": {"a": 1}, "name": "get_weather"}\n',
        Said(None, None, WEATHER),
    ),
    "llama, words before the tag": ("llama", "Look: <|python_tag|>" + TWO, Said(None, "Look:", BOTH)),
    "llama, words and an object": ("llama", "So: " + TWO, Said(None, "So: " + TWO, ())),
    "llama, another object": ("llama", '{"a": "b"} ', Said(None, '{"a": "b"} ', ())),
    "llama, an unknown function": ("llama", '{"name": "f"} x', Said(None, '{"name": "f"} x', ())),
    "llama, a set": ("llama", "{1, 2}", Said(None, "{1, 2}", ())),
    "llama, a half": ("llama", '{"name": "get_w', Said(None, '{"name": "get_w', ())),
    "llama, words after": ("llama", TWO.partition(";")[0] + "\nThere.", Said(None, "\nThere.", WEATHER)),
    "list": ("mistral-list", f"[TOOL_CALLS] [{LISTED}]", Said(None, None, BOTH)),
    "list with ids": (
        "mistral-list",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"a": 1}, "id": "123456789"}]',
        Said(None, None, WEATHER),
    ),
    "list in another order": (
        "mistral-list",
        '[TOOL_CALLS] [{"id": "x", "arguments": {"a": 1}, "name": "get_weather"}, '
        '{"name": "get-time", "arguments": {}}]',
        Said(None, None, BOTH),
    ),
    "list and words": ("mistral-list", f"Hm. [TOOL_CALLS] [{LISTED}] so", Said(None, "Hm. so", BOTH)),
    "list, not closed": ("mistral-list", f"[TOOL_CALLS] [{LISTED}", Said(None, None, BOTH)),
    "list, one cut": ("mistral-list", f"[TOOL_CALLS] [{LISTED}"[:-2], Said(None, None, (*WEATHER, ("get-time", "{")))),
    "list of something else": ("mistral-list", "[TOOL_CALLS] [1, 2]", Said(None, "[TOOL_CALLS] [1, 2]", ())),
    "a list without the mark": ("mistral-list", f"[{LISTED}]", Said(None, f"[{LISTED}]", ())),
    "named": ("mistral-named", named('{"a": 1}', "[ARGS]"), Said(None, None, WEATHER)),
    "named, with an id": ("mistral-id", named('{"a": 1}', "[CALL_ID]", "a1", "[ARGS]"), Said(None, None, WEATHER)),
    "named, no mark": ("mistral-named", named('{"a": 1}'), Said(None, None, WEATHER)),
    "named, two": ("mistral-named", named('{"a": 1}') + "[TOOL_CALLS]get-time[ARGS]{}", Said(None, None, BOTH)),
    "named, words around": (
        "mistral-named",
        f"a {named('{}', '[ARGS]')} b",
        Said(None, "a b", (("get_weather", "{}"),)),
    ),
    "named, unknown": ("mistral-named", "[TOOL_CALLS]f[ARGS]{}", Said(None, "[TOOL_CALLS]f[ARGS]{}", ())),
    "named, no arguments": ("mistral-named", named(" is", "[ARGS]"), Said(None, named(" is", "[ARGS]"), ())),
    "named, cut": ("mistral-named", named('{"a', "[ARGS]"), Said(None, None, (("get_weather", '{"a'),))),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_read_as_it_was_meant_whole_and_in_pieces(case: str) -> None:
    name, text, said = CASES[case]
    assert read_answer(text, form(ROWS[name])) == said
    for seed in range(20):
        draw, reader, at, pieces = random.Random(seed), AnswerReader(form(ROWS[name])), 0, []
        while at < len(text):
            size = draw.randint(1, 6)
            pieces += reader.push(text[at : at + size])
            at += size
        pieces += reader.push("", last=True)
        begun = [piece.name for piece in pieces if isinstance(piece, CallBegun)]
        arguments = [
            "".join(p.text for p in pieces if isinstance(p, Arguments) and p.index == i) for i in range(len(begun))
        ]
        assert "".join(piece.text for piece in pieces if isinstance(piece, Words)) == (said.content or "")
        assert tuple(zip(begun, arguments, strict=True)) == said.calls


def test_a_call_goes_out_as_soon_as_its_name_is_known() -> None:
    for name, head in (
        ("llama", '{"name": "get-time", "parameters": '),
        ("mistral-named", "[TOOL_CALLS]get-time[ARGS]"),
    ):
        assert AnswerReader(form(ROWS[name])).push(head + '{"a"') == [CallBegun(0, "get-time"), Arguments(0, '{"a"')]
    assert AnswerReader(form(ROWS["llama"])).push('{"city"') == [Words('{"city"')], "an object that is no call"
