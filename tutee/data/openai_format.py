"""OpenAI's fine-tuning files: JSON Lines, read and written one line at a time.

Knows the supervised format and the preference format in both spellings (`preferred_output`, and `preferred_completion`
as Azure writes it); see the API reference, "Fine-tuning". Every error is an `InvalidInput` that starts with the line,
`line 7: messages[1].role is missing.`, and whose `param` is the request's field that named the file. A file of any
size is read with one line of it in memory. Does not know where files are kept, nor what is trained on them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NoReturn, ParamSpec, TypeVar

from tutee.conversation import Message, parse_messages
from tutee.data.rows import PairRow, Row, SftRow
from tutee.errors import InvalidInput

Method = Literal["supervised", "dpo"]
P = ParamSpec("P")
T = TypeVar("T")

MAX_LINE_BYTES = 8 * 1024 * 1024
DIALECTS = (("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion"))


@dataclass(frozen=True, slots=True)
class Supervised:
    """One line of a supervised file; `tools` as the line has them."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """One line of a preference file: the context, the better answer and the worse one (one assistant message each)."""

    line: int
    prompt: tuple[Message, ...]
    preferred: Message
    non_preferred: Message
    tools: tuple[dict[str, Any], ...] = ()


def read_supervised(stream: BinaryIO, param: str = "training_file") -> Iterator[Supervised]:
    """Check and yield each line of a supervised file.

    Raises:
        InvalidInput: at the first bad line, or at the end of a file without examples.
    """
    for line, example in _objects(stream, param):
        yield _checked(line, param, _supervised, example, line)


def read_preferences(stream: BinaryIO, param: str = "training_file") -> Iterator[Preference]:
    """Check and yield each line of a preference file, in either dialect; raises like `read_supervised`."""
    for line, example in _objects(stream, param):
        yield _checked(line, param, _preference, example, line)


def count(stream: BinaryIO, method: Method, param: str = "training_file") -> int:
    """Check a whole file; its number of examples, at least 1."""
    reader: Callable[[BinaryIO, str], Iterator[object]] = {"supervised": read_supervised, "dpo": read_preferences}[
        method
    ]
    return sum(1 for _ in reader(stream, param))


def write(rows: Iterable[Row], stream: BinaryIO, method: Method) -> int:
    """Write the rows that the format can hold (`SftRow` or `PairRow`), one line each.

    Returns:
        The number of lines written.
    """
    written = 0
    for row in rows:
        if method == "supervised" and isinstance(row, SftRow):
            example: dict[str, Any] = {"messages": [message.to_dict() for message in row.messages]}
        elif method == "dpo" and isinstance(row, PairRow):
            example = {
                "input": {"messages": [message.to_dict() for message in row.prompt]},
                "preferred_output": [{"role": "assistant", "content": row.chosen.text}],
                "non_preferred_output": [{"role": "assistant", "content": row.rejected.text}],
            }
        else:
            continue
        stream.write(json.dumps(example, ensure_ascii=False).encode() + b"\n")
        written += 1
    return written


class _BadLineError(Exception):
    """What is wrong with a line, without its number."""


def _checked(line: int, param: str, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return parse(*args, **kwargs)
    except InvalidInput as error:
        _refuse(line, error.message.replace(f"'{error.param}'", str(error.param), 1), param)
    except _BadLineError as error:
        _refuse(line, str(error), param)


def _refuse(line: int, what: str, param: str) -> NoReturn:
    raise InvalidInput(f"line {line}: {what}", param=param, code="invalid_training_file")


def _objects(stream: BinaryIO, param: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered JSON objects of a file; blank lines are counted and skipped, a byte order mark is ignored."""
    number = examples = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            _refuse(number, f"is longer than {MAX_LINE_BYTES // 2**20} MiB.", param)
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if raw.strip():
            examples += 1
            yield number, _checked(number, param, _object, raw)
    if not examples:
        raise InvalidInput("The file has no examples.", param=param, code="invalid_training_file")


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise _BadLineError(f"is not UTF-8 (byte {error.start + 1}). Save the file as UTF-8.") from None
    except UnicodeEncodeError:
        raise _BadLineError("holds half of a surrogate pair, which no text can contain.") from None
    except json.JSONDecodeError as error:
        raise _BadLineError(f"is not JSON: {error.msg} at column {error.colno}.") from None
    except RecursionError:
        raise _BadLineError("is nested too deeply.") from None
    except ValueError as error:
        raise _BadLineError(f"is not JSON: {error}.") from None
    if not isinstance(value, Mapping):
        raise _BadLineError("must be a JSON object.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _supervised(example: Mapping[str, Any], line: int) -> Supervised:
    if "prompt" in example and "completion" in example:
        raise _BadLineError("has 'prompt' and 'completion', the format of completion models; write 'messages' instead.")
    if any(name in example for name in ("input", *DIALECTS[0], *DIALECTS[1])):
        raise _BadLineError("looks like a preference example; train it with method 'dpo'.")
    _known(example, {"messages", "tools", "parallel_tool_calls", "functions"}, "")
    messages = tuple(_messages(example, "messages", "messages"))
    if messages[-1].role != "assistant":
        raise _BadLineError(
            f"messages[{len(messages) - 1}].role is '{messages[-1].role}'; the last message must be 'assistant'."
        )
    if all(message.weight == 0 for message in messages if message.role == "assistant"):
        raise _BadLineError("every assistant message has weight 0, so there is nothing to learn.")
    _answers_match_calls(messages, "messages")
    return Supervised(line, messages, _tools(example, ""))


def _preference(example: Mapping[str, Any], line: int) -> Preference:
    if "messages" in example and "input" not in example:
        raise _BadLineError("looks like a supervised example; train it with method 'supervised'.")
    dialects = [names for names in DIALECTS if any(name in example for name in names)]
    if len(dialects) > 1:
        raise _BadLineError(f"mixes {DIALECTS[0][0]} and {DIALECTS[1][0]}; use one of the two.")
    better, worse = dialects[0] if dialects else DIALECTS[0]
    _known(example, {"input", better, worse}, "")
    prompt_of = example.get("input")
    if not isinstance(prompt_of, Mapping):
        raise _BadLineError("input is missing." if prompt_of is None else "input must be an object.")
    _known(prompt_of, {"messages", "tools", "parallel_tool_calls"}, "input.")
    prompt = tuple(_messages(prompt_of, "messages", "input.messages"))
    if prompt[-1].role not in ("user", "tool"):
        raise _BadLineError(
            f"input.messages[{len(prompt) - 1}].role is '{prompt[-1].role}'; the last message must be 'user' or 'tool'."
        )
    _answers_match_calls(prompt, "input.messages")
    preferred, non_preferred = _answer(example, better), _answer(example, worse)
    if preferred.content == non_preferred.content:
        raise _BadLineError(f"{better} and {worse} are the same.")
    return Preference(line, prompt, preferred, non_preferred, _tools(prompt_of, "input."))


def _messages(example: Mapping[str, Any], name: str, param: str) -> list[Message]:
    if name not in example:
        raise _BadLineError(f"{param} is missing.")
    return parse_messages(example[name], param)


def _answer(example: Mapping[str, Any], name: str) -> Message:
    messages = _messages(example, name, name)
    if len(messages) != 1:
        raise _BadLineError(f"{name} has {len(messages)} messages; it must have one.")
    if messages[0].role != "assistant":
        raise _BadLineError(f"{name}[0].role is '{messages[0].role}'; it must be 'assistant'.")
    if messages[0].tool_calls:
        raise _BadLineError(f"{name}[0].tool_calls: a preferred answer must be text.")
    return messages[0]


def _answers_match_calls(messages: tuple[Message, ...], param: str) -> None:
    asked: set[str] = set()
    for i, message in enumerate(messages):
        asked |= {call.id for call in message.tool_calls}
        if message.role == "tool" and message.tool_call_id not in asked:
            raise _BadLineError(
                f"{param}[{i}].tool_call_id is {message.tool_call_id!r}, which no earlier message called."
            )


def _tools(example: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], ...]:
    if example.get("functions") is not None:
        raise _BadLineError(f"{prefix}functions is the old name; write {prefix}tools instead.")
    tools = example.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise _BadLineError(f"{prefix}tools must be a list of objects.")
    return tuple(dict(tool) for tool in tools)


def _known(example: Mapping[str, Any], names: set[str], prefix: str) -> None:
    for name in example:
        if name not in names:
            raise _BadLineError(f"{prefix}{name} is not a field of this format.")
