"""What an assistant's text says, whole and in pieces."""

from __future__ import annotations

import random

import pytest

from tutee.model.said import AnswerReader, Arguments, CallBegun, Form, Said, Thought, Words, read_answer

FORM = Form(thinks=True, functions=("f", "g"))


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


CASES = {
    "words": ("hello \n", Said(None, "hello \n", ())),
    "thoughts": ("<think>\nhm  \n</think>\n\nhi\n", Said("hm", "hi\n", ())),
    "unfinished thoughts": ("<think>\nhm, ", Said("hm, ", "", ())),
    "almost thoughts": ("<thin", Said(None, "<thin", ())),
    "a call": (call("f", '{"a": "}\\"{"}'), Said(None, None, (("f", '{"a": "}\\"{"}'),))),
    "words and calls": (
        f"hi\n{call('f', '{}')}\n{call('g', '[1]')[:0]}{call('g', '{}')}\n",
        Said(None, "hi", (("f", "{}"), ("g", "{}"))),
    ),
    "keys in another order": (
        '<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>',
        Said(None, None, (("g", '{"x": 1}'),)),
    ),
    "arguments as a string": (
        '<tool_call>{"name": "g", "arguments": "{\\"x\\": 1}"}</tool_call>',
        Said(None, None, (("g", '{"x": 1}'),)),
    ),
    "parameters": (
        '<tool_call>{"name": "g", "parameters": {"x": 1}}</tool_call>',
        Said(None, None, (("g", '{"x": 1}'),)),
    ),
    "an unknown function": (f"a {call('zz', '{}')}", Said(None, f"a {call('zz', '{}')}", ())),
    "broken JSON": ("a <tool_call>{no}</tool_call> b", Said(None, "a <tool_call>{no}</tool_call> b", ())),
    "cut in the arguments": (call("f", '{"a": 12')[:46], Said(None, None, (("f", '{"a": 1'),))),
    "cut before the name": ('<tool_call>\n{"na', Said(None, '<tool_call>\n{"na', ())),
    "no closing tag": (call("f", "{}").removesuffix("\n</tool_call>"), Said(None, None, (("f", "{}"),))),
}


@pytest.mark.parametrize(("text", "said"), CASES.values(), ids=CASES.keys())
def test_it_is_read_as_it_was_meant(text: str, said: Said) -> None:
    assert read_answer(text, FORM) == said


@pytest.mark.parametrize(("text", "said"), CASES.values(), ids=CASES.keys())
def test_pieces_joined_are_the_whole(text: str, said: Said) -> None:
    for seed in range(40):
        draw, reader, at = random.Random(seed), AnswerReader(FORM), 0
        pieces = []
        while at < len(text):
            size = draw.randint(1, 5)
            pieces += reader.push(text[at : at + size])
            at += size
        pieces += reader.push("", last=True)
        calls = [
            (p.name, "".join(a.text for a in pieces if isinstance(a, Arguments) and a.index == p.index))
            for p in pieces
            if isinstance(p, CallBegun)
        ]
        assert "".join(p.text for p in pieces if isinstance(p, Thought)) == (said.reasoning or "")
        assert "".join(p.text for p in pieces if isinstance(p, Words)) == (said.content or "")
        assert tuple(calls) == said.calls


def test_what_is_certain_goes_out_at_once() -> None:
    reader = AnswerReader(FORM)
    assert reader.push("hi, a < b") == [Words("hi, a < b")]
    assert reader.push(" <tool") == []
    assert reader.push("s") == [Words(" <tools")]
    assert reader.push('<tool_call>{"name": "f", "arguments": {"a"') == [CallBegun(0, "f"), Arguments(0, '{"a"')]


def test_an_answer_that_begins_inside_its_thoughts() -> None:
    form = Form(thinks=True, thinking=True)
    assert read_answer("so.\n</think>\n\nhi", form) == Said("so.", "hi", ())
    assert AnswerReader(form).thinking


def test_without_functions_tags_are_words() -> None:
    text = call("f", "{}")
    assert read_answer(text, Form()) == Said(None, text, ())
