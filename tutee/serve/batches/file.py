"""The input file of a batch: one request a line, read twice without ever being whole in memory.

`check` reads all of it and says what is wrong with which line; `requests` reads it again while the batch runs. Does not
know whether a request's body is a good one: that is the endpoint's to say, and fails that line only.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

MOST_BYTES = 200 * 1024 * 1024
MOST_LINES = 50_000
MOST_ERRORS = 100
LONGEST_LINE = 16 * 1024 * 1024
LONGEST_ID = 512


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line. `position` counts from 0 and leaves blank lines out; `body` is JSON again."""

    position: int
    custom_id: str
    body: bytes
    streams: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file is: `errors` (OpenAI's batch errors) is empty for a good one."""

    errors: list[dict[str, Any]]
    total: int
    model: str | None
    """The model of all lines; None when they name several."""


class _BadLine(ValueError):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def check(path: Path, endpoint: str) -> Checked:
    """Read the whole file; stops at the hundredth error."""
    if path.stat().st_size > MOST_BYTES:
        return _refused("file_too_large", f"The file has more than {MOST_BYTES:,} bytes.")
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    models: set[Any] = set()
    total = 0
    for number, text in _lines(path):
        try:
            line = _parse(text, endpoint)
            if line["custom_id"] in seen:
                raise _BadLine(
                    "duplicate_custom_id", f"The custom_id {line['custom_id']!r} is used twice.", "custom_id"
                )
        except _BadLine as error:
            errors.append({"code": error.code, "line": number, "message": str(error), "param": error.param})
            if len(errors) == MOST_ERRORS:
                break
            continue
        seen.add(line["custom_id"])
        models.add(str(line["body"].get("model")))
        total += 1
        if total > MOST_LINES:
            return _refused("too_many_tasks", f"The file has more than {MOST_LINES:,} requests.")
    if not errors and not total:
        return _refused("empty_file", "The file holds no requests.")
    return Checked(errors, total, next(iter(models)) if len(models) == 1 else None)


def requests(path: Path, endpoint: str) -> Iterator[BatchRequest]:
    """The requests of a file that `check` found good."""
    for position, (_, text) in enumerate(_lines(path)):
        line = _parse(text, endpoint)
        body = line["body"]
        yield BatchRequest(position, line["custom_id"], msgspec.json.encode(body), body.get("stream") is True)


def _refused(code: str, message: str) -> Checked:
    return Checked([{"code": code, "line": None, "message": message, "param": "input_file_id"}], 0, None)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1, and the lines that are not blank; of an overlong one only its beginning. A byte order mark
    is passed over, as in all files here."""
    with path.open("rb") as file:
        number = 0
        while text := file.readline(LONGEST_LINE + 1):
            number += 1
            line = text.removeprefix(codecs.BOM_UTF8) if number == 1 else text
            if line.strip():
                yield number, line
            while len(text) > LONGEST_LINE and not text.endswith(b"\n"):
                text = file.readline(LONGEST_LINE + 1)


def _parse(text: bytes, endpoint: str) -> dict[str, Any]:
    if len(text) > LONGEST_LINE:
        raise _BadLine("invalid_json_line", f"The line has more than {LONGEST_LINE:,} bytes.")
    try:
        line = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _BadLine("invalid_json_line", f"This line is not valid JSON: {error}.") from None
    if not isinstance(line, dict):
        raise _BadLine("invalid_json_line", "This line is not a JSON object.")
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if name not in line:
            raise _BadLine("missing_required_parameter", f"'{name}' is missing.", name)
        if not isinstance(line[name], kind):
            wanted = "an object" if kind is dict else "a string"
            raise _BadLine("invalid_type", f"'{name}' must be {wanted}.", name)
    if not 1 <= len(line["custom_id"]) <= LONGEST_ID:
        raise _BadLine("invalid_value", f"'custom_id' must have 1 to {LONGEST_ID} characters.", "custom_id")
    if line["method"] != "POST":
        raise _BadLine("invalid_method", "'method' must be POST.", "method")
    if line["url"] != endpoint:
        message = f"'url' is {line['url']!r:.100}, but the batch is for {endpoint}."
        raise _BadLine("mismatched_endpoint", message, "url")
    return line
