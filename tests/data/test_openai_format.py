"""Every line is read as OpenAI's reference has it, every bad line is named, and no file is held in memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutee import json_lines
from tutee.conversation import Message
from tutee.data import openai_format
from tutee.data.openai_format import count, read_preferences, read_supervised, write
from tutee.data.rows import Origin, PairRow, Reply, SftRow, UnpairedRow
from tutee.errors import InvalidInput

USER = {"role": "user", "content": "Hi"}
GOOD = {"messages": [USER, {"role": "assistant", "content": "Hello."}]}
PAIR = {
    "input": {"messages": [USER]},
    "preferred_output": [{"role": "assistant", "content": "Hello."}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}
ORIGIN = Origin("edit", ("fb-1",), "actor-1", "conv-1", "msg-1")


def lines(*examples: Any) -> io.BytesIO:
    return io.BytesIO(b"".join(e if isinstance(e, bytes) else json.dumps(e).encode() + b"\n" for e in examples))


def test_supervised_lines_with_system_weights_and_tools() -> None:
    tool = {"type": "function", "function": {"name": "clock"}}
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    example = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
            {"role": "assistant", "content": "Noon.", "weight": 1},
        ],
        "tools": [tool],
        "parallel_tool_calls": False,
    }
    first, second = read_supervised(lines(GOOD, example))
    assert first.messages == (Message("user", "Hi"), Message("assistant", "Hello."))
    assert (second.line, second.tools) == (2, (tool,))
    assert second.messages[2].tool_calls[0].name == "clock"
    assert second.messages[-1].weight == 1.0


@pytest.mark.parametrize("names", openai_format.DIALECTS)
def test_preferences_in_both_dialects(names: tuple[str, str]) -> None:
    example = {"input": PAIR["input"], names[0]: PAIR["preferred_output"], names[1]: PAIR["non_preferred_output"]}
    (read,) = read_preferences(lines(example))
    assert read.prompt == (Message("user", "Hi"),)
    assert (read.preferred.content, read.non_preferred.content) == ("Hello.", "What?")


def test_a_byte_order_mark_and_empty_lines_are_skipped_but_counted() -> None:
    stream = lines(b"\xef\xbb\xbf", GOOD, b"\n", b"  \r\n", json.dumps(GOOD).encode() + b"\r\n", GOOD)
    assert [example.line for example in read_supervised(stream)] == [1, 4, 5]


def test_the_last_line_needs_no_newline() -> None:
    assert count(io.BytesIO(json.dumps(GOOD).encode()), "supervised") == 1


def bad(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def bad_pair(**changes: Any) -> dict[str, Any]:
    return {**PAIR, **changes}


ASSISTANT = {"role": "assistant", "content": "Hello."}
SUPERVISED_ERRORS: list[tuple[Any, str]] = [
    (b"{nope\n", "is not JSON: Expecting property name enclosed in double quotes at column 2."),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}\n', "is not UTF-8 (byte 44)."),
    (b'{"messages": NaN}\n', "is not JSON: NaN is not a JSON number."),
    (b'{"messages": ' + b"9" * 5000 + b"}\n", "holds a whole number of more than 4,300 digits."),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}\n', "holds half of a surrogate pair"),
    (b"[" * 100_000 + b"\n", "is nested too deeply."),
    (b"[1]\n", "must be a JSON object."),
    ({}, "messages is missing."),
    (bad(messages=[]), "messages must hold at least one message."),
    (bad(messages="x"), "messages must be a list of messages."),
    (bad(messages=[USER, {"content": "x"}]), "messages[1].role is missing."),
    (bad(messages=[USER, {"role": "robot", "content": "x"}]), "messages[1].role is 'robot'; it must be one of"),
    (bad(messages=[{"role": "user", "content": 3}, ASSISTANT]), "messages[0].content must be a string"),
    (bad(messages=[USER]), "messages[0].role is 'user'; the last message must be 'assistant'."),
    (bad(messages=[USER, {**ASSISTANT, "weight": 2}]), "messages[1].weight must be 0 or 1"),
    (bad(messages=[USER, {**ASSISTANT, "weight": 0}]), "every assistant message has weight 0"),
    (bad(messages=[{"role": "tool", "content": "x", "tool_call_id": "c9"}, ASSISTANT]), "messages[0].tool_call_id is"),
    (bad(tools="x"), "tools must be a list of objects."),
    (bad(functions=[{}]), "functions is the old name; write tools instead."),
    (bad(temperature=1), "temperature is not a field of this format."),
    ({"prompt": "a", "completion": "b"}, "has 'prompt' and 'completion'"),
    (PAIR, "looks like a preference example; train it with method 'dpo'."),
]
PREFERENCE_ERRORS: list[tuple[Any, str]] = [
    (GOOD, "looks like a supervised example; train it with method 'supervised'."),
    (bad_pair(input=None), "input is missing."),
    (bad_pair(input=[]), "input must be an object."),
    (bad_pair(input={}), "input.messages is missing."),
    (bad_pair(input={"messages": [{"content": "x"}]}), "input.messages[0].role is missing."),
    (bad_pair(input={"messages": [USER, ASSISTANT]}), "input.messages[1].role is 'assistant'; the last message must"),
    (bad_pair(preferred_output=[]), "preferred_output must hold at least one message."),
    (bad_pair(preferred_output=[ASSISTANT, ASSISTANT]), "preferred_output has 2 messages; it must have one."),
    (bad_pair(preferred_output=[USER]), "preferred_output[0].role is 'user'; it must be 'assistant'."),
    (
        bad_pair(non_preferred_output=PAIR["preferred_output"]),
        "preferred_output and non_preferred_output are the",
    ),
    (bad_pair(preferred_completion=[ASSISTANT]), "mixes preferred_output and preferred_completion"),
    ({"input": PAIR["input"], "preferred_output": [ASSISTANT]}, "non_preferred_output is missing."),
    (bad_pair(note="x"), "note is not a field of this format."),
]


@pytest.mark.parametrize(("line", "message"), SUPERVISED_ERRORS, ids=lambda value: str(value)[:40])
def test_a_bad_supervised_line_is_named(line: Any, message: str) -> None:
    stream = lines(GOOD, GOOD, b"\n", GOOD, GOOD, GOOD, line, GOOD)
    with pytest.raises(InvalidInput) as error:
        list(read_supervised(stream, "validation_file"))
    assert error.value.message.startswith(f"line 7: {message}")
    assert error.value.param == "validation_file"


@pytest.mark.parametrize(("line", "message"), PREFERENCE_ERRORS, ids=lambda value: str(value)[:40])
def test_a_bad_preference_line_is_named(line: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        list(read_preferences(lines(PAIR, PAIR, PAIR, PAIR, PAIR, PAIR, line)))
    assert error.value.message.startswith(f"line 7: {message}")
    assert error.value.param == "training_file"


def test_the_lines_before_a_bad_one_are_yielded() -> None:
    reading = read_supervised(lines(GOOD, GOOD, b"{\n"))
    assert (next(reading).line, next(reading).line) == (1, 2)
    with pytest.raises(InvalidInput):
        next(reading)


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_a_file_without_examples_is_an_error(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="no examples"):
        count(io.BytesIO(content), "dpo")


def test_an_oversize_line_is_refused_without_being_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 2**20)
    stream = lines(GOOD, b"x" * 2**22 + b"\n")
    with pytest.raises(InvalidInput, match=r"line 2: is longer than 1 MiB\."):
        list(read_supervised(stream))
    assert stream.tell() < 2**21


class Endless(io.RawIOBase):
    """A file of many lines that exists nowhere."""

    def __init__(self, line: bytes, times: int) -> None:
        self._lines: Iterator[bytes] = (line for _ in range(times))

    def readline(self, size: int | None = -1, /) -> bytes:
        return next(self._lines, b"")


def test_memory_does_not_grow_with_the_file() -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "x" * 10_000}, ASSISTANT]}).encode() + b"\n"
    tracemalloc.start()
    try:
        assert count(Endless(line, 2000), "supervised") == 2000  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(texts, texts, texts).filter(lambda t: t[1] != t[2]), min_size=1, max_size=5))
def test_what_is_written_is_read_again(rows: list[tuple[str, str, str]]) -> None:
    history = (Message("user", "Earlier?"), Message("assistant", "Yes."))
    sft = [SftRow((*history, Message("user", q)), Reply(a), ORIGIN) for q, a, _ in rows]
    pairs = [PairRow((Message("user", q),), Reply(a), Reply(b), ORIGIN) for q, a, b in rows]
    other = UnpairedRow((Message("user", "x"),), Reply("y"), True, ORIGIN)
    for method in ("supervised", "dpo"):
        stream = io.BytesIO()
        assert write([*sft, other, *pairs], stream, method) == len(rows)  # type: ignore[arg-type]
        stream.seek(0)
        if method == "supervised":
            assert [example.messages for example in read_supervised(stream)] == [
                (history[0], Message("assistant", "Yes.", weight=0.0), Message("user", q), Message("assistant", a))
                for q, a, _ in rows
            ]
        else:
            assert [(e.prompt, e.preferred.content, e.non_preferred.content) for e in read_preferences(stream)] == [
                ((Message("user", q),), a, b) for q, a, b in rows
            ]
