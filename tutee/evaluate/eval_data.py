"""The data of an eval run: OpenAI's `data_source`, checked, and its rows one by one.

A row is an `item`, with a `sample` where the data brings the answer along; where it does not, `messages` says what a
model is asked. Does not know how stored completions are kept (they are handed in) nor who answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import jsonschema_rs

from tutee.errors import InvalidInput
from tutee.grade.definition import read_messages
from tutee.grade.model_graders import MessageTemplates
from tutee.grade.result import Failure
from tutee.grade.sample import Sample
from tutee.json_lines import json_lines, refuse

SOURCES: Mapping[str, Sequence[str]] = {
    "jsonl": ("file_content", "file_id"),
    "completions": ("file_content", "file_id", "stored_completions"),
    "responses": ("file_content", "file_id", "responses"),
}
"""Kinds of data source, each with the kinds of rows that it takes."""
STORED = ("stored_completions", "responses")
MOST_INLINE = 10_000
ITEM_INPUT = "item.input"
FILE_ID, BAD_FILE = "data_source.source.id", "invalid_eval_file"


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row.

    Args:
        sample: the answer that it brings along, None if a model shall give one.
    """

    position: int
    item: Mapping[str, Any]
    sample: Mapping[str, Any] | None = None

    def names(self, answer: Sample | None = None) -> dict[str, Any]:
        """What templates see: the item, and the answer (given here, or brought along)."""
        if answer is not None:
            return {"item": self.item, "sample": answer.namespace()}
        if self.sample is None:
            return {"item": self.item}
        text, tools = self.sample.get("output_text"), self.sample.get("output_tools")
        known = Sample(
            text if isinstance(text, str) else "",
            tools if isinstance(tools, list) else (),
            _finish_reason(self.sample.get("choices")),
            more=self.sample,
        )
        return {"item": self.item, "sample": known.namespace()}


@dataclass(frozen=True, slots=True)
class DataSource:
    """A checked `data_source`.

    Args:
        source: its rows: `type` and that type's fields.
        model: who is asked; None: the data brings its answers.
        sampling: OpenAI's `sampling_params`.
        template: the messages that are asked, or `reference`, the path of such messages in the item.
    """

    kind: str
    source: Mapping[str, Any]
    model: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    template: MessageTemplates | None = None
    reference: str = ITEM_INPUT

    def messages(self, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What a model is asked about an item. Raises Failure: a path that leads nowhere, or to no messages."""
        if self.template is not None:
            return [{"role": role, "content": text.render({"item": item})} for role, text in self.template]
        found: Any = {"item": item}
        for step in self.reference.split("."):
            if not isinstance(found, Mapping) or step not in found:
                raise Failure("invalid_variable_error", f"'{self.reference}' leads nowhere.")
            found = found[step]
        if isinstance(found, str):
            return [{"role": "user", "content": found}]
        if not isinstance(found, list) or not all(isinstance(message, Mapping) for message in found):
            raise Failure("invalid_variable_error", f"'{self.reference}' is no list of messages.")
        return [dict(message) for message in found]


def read_data_source(raw: object, param: str = "data_source") -> DataSource:
    """Check a `data_source`.

    Raises:
        InvalidInput: naming the field at fault.
    """
    fields = _object(raw, param)
    kind = _choice(fields, "type", tuple(SOURCES), param)
    source = _object(fields.get("source"), f"{param}.source")
    rows = _choice(source, "type", SOURCES[kind], f"{param}.source")
    if rows not in STORED:
        _refuse_others(source, f"{param}.source", ("type", "content" if rows == "file_content" else "id"))
    if rows == "file_content":
        _check_content(source.get("content"), f"{param}.source.content")
    elif rows == "file_id" and not isinstance(source.get("id"), str):
        raise _missing(f"{param}.source.id")
    known = ("type", "source", "model", "input_messages", "sampling_params")
    _refuse_others(fields, param, known if kind != "jsonl" else known[:2])
    model = fields.get("model")
    if model is not None and (not isinstance(model, str) or not model):
        raise InvalidInput(f"'{param}.model' must be a string.", param=f"{param}.model", code="invalid_type")
    template, reference = _input_messages(fields.get("input_messages"), f"{param}.input_messages")
    if kind != "jsonl" and rows not in STORED:
        for name in ("model", "input_messages"):
            if fields.get(name) is None:
                raise _missing(f"{param}.{name}")
    sampling = fields.get("sampling_params")
    sampling = {} if sampling is None else _object(sampling, f"{param}.sampling_params")
    return DataSource(kind, source, model, sampling, template, reference)


def data_sha(raw: Mapping[str, Any]) -> str:
    """Names the data and the way of asking, without the model: what two runs must share to be compared."""
    rest = {name: value for name, value in raw.items() if name != "model"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


Open = Callable[[str], BinaryIO]
"""File id → its bytes. Raises NotFound."""
Stored = Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]]
"""A `stored_completions` or `responses` source → its rows: `item` and `sample`, in an order that stays."""


def rows(source: DataSource, open_file: Open, stored: Stored) -> Iterator[DataRow]:
    """The rows of a data source, read as they are needed.

    Raises:
        InvalidInput: a line of a file that is no row, with its number. NotFound: the file is gone.
    """
    kind = source.source["type"]
    found: Iterator[Mapping[str, Any]]
    if kind == "file_content":
        found = iter(source.source["content"])
    elif kind == "file_id":
        found = _lines(open_file(source.source["id"]))
    else:
        found = stored(source.source)
    for position, row in enumerate(found):
        yield DataRow(position, row["item"], None if source.model is not None else row.get("sample"))


def schema_of(raw: object, param: str) -> Callable[[Mapping[str, Any]], str | None]:
    """A check of items against an `item_schema`: what is wrong with one, or None. References to other documents, and
    patterns that would search for ever, are refused.

    Raises:
        InvalidInput: no JSON Schema (code `invalid_json_schema`).
    """
    schema = _object(raw, param)
    try:
        validator = jsonschema_rs.validator_for(
            schema, retriever=_no_documents, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (ValueError, jsonschema_rs.ReferencingError, RecursionError) as error:
        said = str(error).splitlines()[0][:200]
        raise InvalidInput(f"'{param}' is no JSON Schema: {said}", param=param, code="invalid_json_schema") from None

    def wrong(item: Mapping[str, Any]) -> str | None:
        error = next(iter(validator.iter_errors(item)), None)
        return None if error is None else str(error.message)[:500]

    return wrong


def _no_documents(uri: str) -> Any:
    raise ValueError(f"it refers to another document, {uri}")


def _lines(stream: BinaryIO) -> Iterator[Mapping[str, Any]]:
    with stream:
        for number, line in json_lines(stream, FILE_ID, BAD_FILE):
            if not isinstance(line.get("item"), Mapping):
                refuse(number, "'item' must be an object.", FILE_ID, BAD_FILE)
            if line.get("sample") is not None and not isinstance(line["sample"], Mapping):
                refuse(number, "'sample' must be an object.", FILE_ID, BAD_FILE)
            yield line


def _check_content(raw: object, param: str) -> None:
    if raw is None:
        raise _missing(param)
    if not isinstance(raw, list):
        raise InvalidInput(f"'{param}' must be a list.", param=param, code="invalid_type")
    if not 1 <= len(raw) <= MOST_INLINE:
        message = f"'{param}' must hold 1 to {MOST_INLINE} rows; upload more as a file."
        raise InvalidInput(message, param=param, code="invalid_value")
    for i, row in enumerate(raw):
        at = f"{param}[{i}]"
        fields = _object(row, at)
        _object(fields.get("item"), f"{at}.item")
        if fields.get("sample") is not None:
            _object(fields["sample"], f"{at}.sample")


def _input_messages(raw: object, param: str) -> tuple[MessageTemplates | None, str]:
    if raw is None:
        return None, ITEM_INPUT
    fields = _object(raw, param)
    if _choice(fields, "type", ("template", "item_reference"), param) == "template":
        template = fields.get("template")
        if not isinstance(template, list) or not template:
            raise InvalidInput(f"'{param}.template' must be a list of messages.", param=f"{param}.template")
        return read_messages(template, f"{param}.template", ("item",)), ""
    reference = fields.get("item_reference")
    if not isinstance(reference, str) or not reference.startswith("item."):
        at = f"{param}.item_reference"
        raise InvalidInput(f"'{at}' must be a path such as item.messages.", param=at, code="invalid_variable_error")
    return None, reference


def _finish_reason(choices: object) -> str:
    """Of a sample that somebody else wrote down."""
    first = choices[0] if isinstance(choices, list) and choices else None
    found = first.get("finish_reason") if isinstance(first, Mapping) else None
    return found if isinstance(found, str) else "stop"


def _object(raw: object, param: str) -> dict[str, Any]:
    if raw is None:
        raise _missing(param)
    if not isinstance(raw, dict):
        raise InvalidInput(f"'{param}' must be an object.", param=param, code="invalid_type")
    return raw


def _choice(fields: Mapping[str, Any], name: str, allowed: Sequence[str], param: str) -> str:
    value = fields.get(name)
    if value is None:
        raise _missing(f"{param}.{name}")
    if not isinstance(value, str) or value not in allowed:
        message = f"'{param}.{name}' is {value!r}; it must be one of {', '.join(allowed)}."
        raise InvalidInput(message, param=f"{param}.{name}", code="invalid_value")
    return value


def _refuse_others(fields: Mapping[str, Any], param: str, known: Sequence[str]) -> None:
    """Refuse what a thing of this `type` does not have; what is stored says itself which filters it has."""
    for name in sorted(fields.keys() - set(known)):
        if fields[name] is not None:
            message = f"'{param}.{name}' is not a field of type {fields['type']!r}."
            raise InvalidInput(message, param=f"{param}.{name}", code="unknown_parameter")


def _missing(param: str) -> InvalidInput:
    return InvalidInput(f"'{param}' is missing.", param=param, code="missing_required_parameter")
