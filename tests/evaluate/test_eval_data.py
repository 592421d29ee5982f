"""Data sources are checked field by field; rows come one by one with the file's line in their errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import pytest

from tutee.errors import InvalidInput
from tutee.evaluate.eval_data import DataRow, data_sha, read_data_source, rows, schema_of
from tutee.grade import Failure

INLINE = {"type": "file_content", "content": [{"item": {"x": 1}, "sample": {"output_text": "one"}}, {"item": {"x": 2}}]}
ASK = {"type": "template", "template": [{"role": "user", "content": "Say {{ item.x }}"}]}
COMPLETIONS = {"type": "completions", "model": "m", "source": INLINE, "input_messages": ASK}


def nothing(*_: object) -> Iterator[Mapping[str, Any]]:
    return iter(())


def opener(text: str) -> Callable[[str], BinaryIO]:
    return lambda id: io.BytesIO(text.encode())


def read(raw: Mapping[str, Any], text: str = "") -> list[DataRow]:
    return list(rows(read_data_source(raw), opener(text), nothing))


def test_rows_bring_their_answers_unless_a_model_is_asked() -> None:
    first, second = read({"type": "jsonl", "source": INLINE})
    assert (first.position, first.item, first.names()["sample"]["output_text"]) == (0, {"x": 1}, "one")
    assert (second.position, second.sample, "sample" in second.names()) == (1, None, False)
    assert [row.sample for row in read(COMPLETIONS)] == [None, None]


def test_messages_come_from_a_template_or_from_the_item() -> None:
    item = {"x": "hello", "talk": {"messages": [{"role": "user", "content": "hi"}]}, "text": "hey"}
    assert read_data_source(COMPLETIONS).messages(item) == [{"role": "user", "content": "Say hello"}]

    def referring(path: str) -> list[dict[str, Any]]:
        asked = {**COMPLETIONS, "input_messages": {"type": "item_reference", "item_reference": path}}
        return read_data_source(asked).messages(item)

    assert referring("item.talk.messages") == [{"role": "user", "content": "hi"}]
    assert referring("item.text") == [{"role": "user", "content": "hey"}]
    for path in ("item.nowhere", "item.talk.messages.0", "item.talk"):
        with pytest.raises(Failure, match="item"):
            referring(path)


def test_files_are_read_line_by_line() -> None:
    asked = {"type": "jsonl", "source": {"type": "file_id", "id": "file-1"}}
    found = read(asked, '{"item": {"x": 1}}\n\n{"item": {"x": 2}, "sample": {"output_text": "b"}}\n')
    assert [(row.position, row.item["x"]) for row in found] == [(0, 1), (1, 2)]
    for line, said in (
        ("[]", "must be a JSON object"),
        ("{", "is not JSON"),
        ('{"x": 1}', "'item' must be an object"),
        ('{"item": {}, "sample": 3}', "'sample' must be an object"),
    ):
        with pytest.raises(InvalidInput, match=f"line 2: .*{said}") as refused:
            read(asked, '{"item": {}}\n' + line)
        assert (refused.value.param, refused.value.code) == ("data_source.source.id", "invalid_eval_file")
    with pytest.raises(InvalidInput, match="no examples") as refused:
        read(asked, "")
    assert refused.value.code == "invalid_eval_file"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"type": "csv"}, "type"),
        ({"source": None}, "source"),
        ({"source": {"type": "sql"}}, "source.type"),
        ({"source": {"type": "file_content"}}, "source.content"),
        ({"source": {"type": "file_content", "content": []}}, "source.content"),
        ({"source": {"type": "file_content", "content": [{"x": 1}]}}, "source.content[0].item"),
        ({"source": {"type": "file_id"}}, "source.id"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"input_messages": None}, "input_messages"),
        ({"input_messages": {"type": "template", "template": []}}, "input_messages.template"),
        (
            {"input_messages": {"type": "template", "template": [{"role": "user", "content": "{{ sample.x }}"}]}},
            "input_messages.template[0].content",
        ),
        ({"input_messages": {"type": "item_reference", "item_reference": "x"}}, "input_messages.item_reference"),
        ({"sampling_params": 3}, "sampling_params"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_the_field_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_data_source({**COMPLETIONS, **change})
    assert caught.value.param == f"data_source.{param}"


def test_jsonl_asks_no_model() -> None:
    with pytest.raises(InvalidInput, match=r"data_source\.model"):
        read_data_source({"type": "jsonl", "source": INLINE, "model": "m"})


def test_the_model_is_no_part_of_what_is_compared() -> None:
    other = {**COMPLETIONS, "model": "n"}
    assert data_sha(COMPLETIONS) == data_sha(other)
    assert data_sha(COMPLETIONS) != data_sha({**COMPLETIONS, "sampling_params": {"seed": 1}})


def test_items_are_checked_against_a_schema_that_reaches_nowhere() -> None:
    wrong = schema_of({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}, "item_schema")
    assert wrong({"x": 1}) is None
    assert "integer" in str(wrong({"x": "one"}))
    assert "x" in str(wrong({}))
    slow = schema_of({"properties": {"x": {"pattern": "^(a+)+$"}}}, "item_schema")
    assert slow({"x": "a" * 100 + "b"}) is not None
    for schema in ({"type": "strin"}, {"$ref": "http://localhost:1/x"}, {"$ref": "file:///etc/hostname"}, 3, None):
        with pytest.raises(InvalidInput, match="item_schema"):
            schema_of(schema, "item_schema")
