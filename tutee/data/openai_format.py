"""OpenAI's fine-tuning files: JSON Lines, read and written one line at a time.

Knows the supervised format and the preference format in both spellings (`preferred_output`, and `preferred_completion`
as Azure writes it); see the API reference, "Fine-tuning". Every error is an `InvalidInput` that starts with the line,
`line 7: messages[1].role is missing.`, and whose `param` is the request's field that named the file. A file of any
size is read with one line of it in memory. Does not know where files are kept, nor what is trained on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from tutee.conversation import Message, parse_messages
from tutee.data.rows import PairRow, Row, SftRow
from tutee.json_lines import BadLine, checked, json_line, json_lines, only_known

Method = Literal["supervised", "dpo"]
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
    for line, example in json_lines(stream, param):
        yield checked(line, param, _supervised, example, line)


def read_preferences(stream: BinaryIO, param: str = "training_file") -> Iterator[Preference]:
    """Check and yield each line of a preference file, in either dialect; raises like `read_supervised`."""
    for line, example in json_lines(stream, param):
        yield checked(line, param, parse_preference, example, line)


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
        stream.write(json_line(example))
        written += 1
    return written


def _supervised(example: Mapping[str, Any], line: int) -> Supervised:
    if "prompt" in example and "completion" in example:
        raise BadLine("has 'prompt' and 'completion', the format of completion models; write 'messages' instead.")
    if any(name in example for name in ("input", *DIALECTS[0], *DIALECTS[1])):
        raise BadLine("looks like a preference example; train it with method 'dpo'.")
    only_known(example, {"messages", "tools", "parallel_tool_calls", "functions"}, "")
    messages = tuple(_messages(example, "messages", "messages"))
    if messages[-1].role != "assistant":
        raise BadLine(
            f"messages[{len(messages) - 1}].role is '{messages[-1].role}'; the last message must be 'assistant'."
        )
    if all(message.weight == 0 for message in messages if message.role == "assistant"):
        raise BadLine("every assistant message has weight 0, so there is nothing to learn.")
    _answers_match_calls(messages, "messages")
    return Supervised(line, messages, _tools(example, ""))


def parse_preference(example: Mapping[str, Any], line: int) -> Preference:
    """One line of a preference file. Raises BadLine or InvalidInput: what is wrong with it, without its number."""
    if "messages" in example and "input" not in example:
        raise BadLine("looks like a supervised example; train it with method 'supervised'.")
    dialects = [names for names in DIALECTS if any(name in example for name in names)]
    if len(dialects) > 1:
        raise BadLine(f"mixes {DIALECTS[0][0]} and {DIALECTS[1][0]}; use one of the two.")
    better, worse = dialects[0] if dialects else DIALECTS[0]
    only_known(example, {"input", better, worse}, "")
    prompt_of = example.get("input")
    if not isinstance(prompt_of, Mapping):
        raise BadLine("input is missing." if prompt_of is None else "input must be an object.")
    only_known(prompt_of, {"messages", "tools", "parallel_tool_calls"}, "input.")
    prompt = tuple(_messages(prompt_of, "messages", "input.messages"))
    if prompt[-1].role not in ("user", "tool"):
        raise BadLine(
            f"input.messages[{len(prompt) - 1}].role is '{prompt[-1].role}'; the last message must be 'user' or 'tool'."
        )
    _answers_match_calls(prompt, "input.messages")
    preferred, non_preferred = _answer(example, better), _answer(example, worse)
    if preferred.content == non_preferred.content:
        raise BadLine(f"{better} and {worse} are the same.")
    return Preference(line, prompt, preferred, non_preferred, _tools(prompt_of, "input."))


def _messages(example: Mapping[str, Any], name: str, param: str) -> list[Message]:
    if name not in example:
        raise BadLine(f"{param} is missing.")
    return parse_messages(example[name], param)


def _answer(example: Mapping[str, Any], name: str) -> Message:
    messages = _messages(example, name, name)
    if len(messages) != 1:
        raise BadLine(f"{name} has {len(messages)} messages; it must have one.")
    if messages[0].role != "assistant":
        raise BadLine(f"{name}[0].role is '{messages[0].role}'; it must be 'assistant'.")
    if messages[0].tool_calls:
        raise BadLine(f"{name}[0].tool_calls: a preferred answer must be text.")
    return messages[0]


def _answers_match_calls(messages: tuple[Message, ...], param: str) -> None:
    asked: set[str] = set()
    for i, message in enumerate(messages):
        asked |= {call.id for call in message.tool_calls}
        if message.role == "tool" and message.tool_call_id not in asked:
            raise BadLine(f"{param}[{i}].tool_call_id is {message.tool_call_id!r}, which no earlier message called.")


def _tools(example: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], ...]:
    if example.get("functions") is not None:
        raise BadLine(f"{prefix}functions is the old name; write {prefix}tools instead.")
    tools = example.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadLine(f"{prefix}tools must be a list of objects.")
    return tuple(dict(tool) for tool in tools)
