"""Thumbs and plain text: what is read, and which line is blamed."""

from __future__ import annotations

import io
import json

import pytest

from tutee.data.training_files import read_reinforcement, read_texts, read_thumbs
from tutee.errors import InvalidInput


def lines(*rows: object) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def test_thumbs_in_text_and_in_messages_are_the_same() -> None:
    short = {"prompt": "Hi", "completion": "Hello.", "label": True}
    long = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Hello."}],
        "label": True,
    }
    first, second = read_thumbs(lines(short, long))
    assert (first.prompt, first.answer, first.liked) == (second.prompt, second.answer, second.liked)
    assert [first.line, second.line] == [1, 2]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "completion": "b"}, "label is missing"),
        ({"prompt": "a", "completion": "b", "label": 1}, "label must be true or false"),
        ({"completion": "b", "label": True}, "prompt is missing"),
        ({"prompt": " ", "completion": "b", "label": True}, "prompt is empty"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "completion": "b", "label": True}, "must be 'user'"),
        ({"prompt": "a", "completion": [{"role": "user", "content": "x"}], "label": True}, "one assistant message"),
        ({"prompt": "a", "completion": "b", "label": True, "weight": 2}, "weight is not a field"),
        ([], "must be a JSON object"),
    ],
)
def test_a_bad_line_is_named(row: object, says: str) -> None:
    good = {"prompt": "a", "completion": "b", "label": False}
    with pytest.raises(InvalidInput, match=says) as caught:
        list(read_thumbs(lines(good, row)))
    assert caught.value.message.startswith("line 2: ")
    assert caught.value.param == "training_file"


def test_texts_are_divided_at_blank_lines() -> None:
    texts = list(read_texts(io.BytesIO(b"\n\na b\nc\r\n \n\nd")))
    assert [(text.line, text.text) for text in texts] == [(3, "a b\nc"), (7, "d")]
    with pytest.raises(InvalidInput, match="no text"):
        list(read_texts(io.BytesIO(b"\n \n")))
    with pytest.raises(InvalidInput, match="line 2: is not UTF-8"):
        list(read_texts(io.BytesIO(b"ok\n\xff\n")))


def test_a_reinforcement_row_is_a_question_and_an_item() -> None:
    asked = {"messages": [{"role": "user", "content": "1 ? 2 = 3"}], "reference_answer": {"op": "+"}, "tools": []}
    [row] = read_reinforcement(lines(asked))
    assert (row.line, row.messages[0].content, row.item) == (1, "1 ? 2 = 3", {"reference_answer": {"op": "+"}})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "answer": "b"}, "messages is missing"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "must be 'user'"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}, "tools are not offered"),
    ],
)
def test_what_is_no_question_is_named(row: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"line 1: .*{says}"):
        list(read_reinforcement(lines(row)))
