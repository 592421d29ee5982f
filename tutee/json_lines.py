"""JSON Lines: written so that any reader finds the same lines, read one at a time with errors that name the line.

The ground under every training file format: numbered objects of a binary stream, and the way from "what is wrong with
this line" to an `InvalidInput` that starts with `line 7:`. Knows no format.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NoReturn, ParamSpec, TypeVar

from tutee.errors import InvalidInput

P = ParamSpec("P")
T = TypeVar("T")

MAX_LINE_BYTES = 8 * 1024 * 1024
BAD_TRAINING_FILE = "invalid_training_file"


ALSO_LINE_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})
"""Unicode's line ends, which may stand in JSON's texts: `str.splitlines`, and who reads with it, ends lines there."""


def json_line(value: Any) -> bytes:
    """A value as one line, its end included; half a surrogate pair becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False).translate(ALSO_LINE_ENDS)
    return text.encode("utf-8", "replace") + b"\n"


class BadLine(Exception):
    """What is wrong with a line, without its number; `checked` adds it."""


def checked(line: int, param: str, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `parse` makes of a line; its complaints become `InvalidInput` with the line's number."""
    try:
        return parse(*args, **kwargs)
    except InvalidInput as error:
        refuse(line, error.message.replace(f"'{error.param}'", str(error.param), 1), param)
    except BadLine as error:
        refuse(line, str(error), param)


def refuse(line: int, what: str, param: str, code: str = BAD_TRAINING_FILE) -> NoReturn:
    """Raise what is wrong with line number `line` of the file that the field `param` named."""
    raise InvalidInput(f"line {line}: {what}", param=param, code=code)


def json_lines(stream: BinaryIO, param: str, code: str = BAD_TRAINING_FILE) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered JSON objects of a file; blank lines are counted and skipped, a byte order mark is ignored.

    Raises:
        InvalidInput: with this code and the number of the line, or that there are none.
    """
    number = examples = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            refuse(number, f"is longer than {MAX_LINE_BYTES // 2**20} MiB.", param, code)
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if raw.strip():
            examples += 1
            try:
                value = _object(raw)
            except BadLine as error:
                refuse(number, str(error), param, code)
            yield number, value
    if not examples:
        raise InvalidInput("The file has no examples.", param=param, code=code)


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadLine(f"is not UTF-8 (byte {error.start + 1}). Save the file as UTF-8.") from None
    except UnicodeEncodeError:
        raise BadLine("holds half of a surrogate pair, which no text can contain.") from None
    except json.JSONDecodeError as error:
        raise BadLine(f"is not JSON: {error.msg} at column {error.colno}.") from None
    except RecursionError:
        raise BadLine("is nested too deeply.") from None
    except ValueError:  # all that is left: Python's own limit
        most = sys.get_int_max_str_digits()
        raise BadLine(f"holds a whole number of more than {most:,} digits.") from None
    if not isinstance(value, Mapping):
        raise BadLine("must be a JSON object.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise BadLine(f"is not JSON: {name} is not a JSON number.")


def only_known(example: Mapping[str, Any], names: set[str], prefix: str) -> None:
    """Refuse a field that the format does not have."""
    for name in example:
        if name not in names:
            raise BadLine(f"{prefix}{name} is not a field of this format.")
