"""Training files beyond OpenAI's two: thumbs, rankings, and plain text.

JSON Lines like OpenAI's, read by the same reader, so errors name the line and a file of any size is read with one line
in memory. Plain text is cut into documents at blank lines. Does not know what is trained on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from tutee.conversation import Message, parse_messages
from tutee.data.openai_format import parse_preference
from tutee.errors import InvalidInput
from tutee.json_lines import BadLine, checked, json_lines, only_known


@dataclass(frozen=True, slots=True)
class Thumb:
    """One line of a KTO file: an answer, and whether somebody liked it."""

    line: int
    prompt: tuple[Message, ...]
    answer: Message
    liked: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """One line of a reward-model file: answers to one prompt with their places, lowest best, equal for ties."""

    line: int
    prompt: tuple[Message, ...]
    answers: tuple[Message, ...]
    ranks: tuple[int, ...]
    margin: float = 0.0
    """How much better each better answer is, in nats."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of a file of questions: what to answer, and the whole row for those who judge the answer."""

    line: int
    messages: tuple[Message, ...]
    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """One document of a plain text file; `line` is where it begins."""

    line: int
    text: str


def read_thumbs(stream: BinaryIO, param: str = "training_file") -> Iterator[Thumb]:
    """Lines `{"prompt": [messages] or text, "completion": [message] or text, "label": true or false}`.

    Raises:
        InvalidInput: at the first bad line, or at the end of a file without examples.
    """
    for line, row in json_lines(stream, param):
        yield checked(line, param, _thumb, row, line)


def read_rankings(stream: BinaryIO, param: str = "training_file") -> Iterator[Ranking]:
    """Lines of OpenAI's preference format, or rankings of two or more answers:

    `{"prompt": …, "completions": [best, …, worst], "ranks": [1, 2, 2], "margin": 0.5}`, the last two optional.

    Raises:
        InvalidInput: at the first bad line, or at the end of a file without examples.
    """
    for line, row in json_lines(stream, param):
        if "completions" in row:
            yield checked(line, param, _ranking, row, line)
        else:
            pair = checked(line, param, parse_preference, row, line)
            yield Ranking(line, pair.prompt, (pair.preferred, pair.non_preferred), (0, 1))


def read_asked(stream: BinaryIO, param: str = "training_file") -> Iterator[Asked]:
    """Lines `{"messages": […]}` or `{"prompt": …}`, the last turn not the assistant's, and any fields for graders,
    such as `answer`.

    Raises:
        InvalidInput: at the first bad line, or at the end of a file without examples.
    """
    for line, row in json_lines(stream, param):
        yield checked(line, param, _asked, row, line)


def read_reinforcement(stream: BinaryIO, param: str = "training_file") -> Iterator[Asked]:
    """Lines of OpenAI's reinforcement format: `{"messages": […, the last one the user's], …}`, where every further
    field is the `item` that graders see. Raises like `read_asked`."""
    for line, row in json_lines(stream, param):
        yield checked(line, param, _reinforcement, row, line)


def read_texts(stream: BinaryIO, param: str = "training_file") -> Iterator[Text]:
    """Documents of a UTF-8 text file, divided by one or more blank lines.

    Raises:
        InvalidInput: not UTF-8 (naming the line), or no text in it.
    """
    lines: list[str] = []
    number = start = 0
    found = False
    for number, raw in enumerate(stream, 1):
        try:
            line = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            message = f"line {number}: is not UTF-8. Save the file as UTF-8."
            raise InvalidInput(message, param=param, code="invalid_training_file") from None
        if line.strip():
            start = start if lines else number
            lines.append(line)
        elif lines:
            found = True
            yield Text(start, "\n".join(lines))
            lines = []
    if lines:
        yield Text(start, "\n".join(lines))
    elif not found:
        raise InvalidInput("The file has no text.", param=param, code="invalid_training_file")


def _thumb(row: Mapping[str, Any], line: int) -> Thumb:
    only_known(row, {"prompt", "completion", "label"}, "")
    label = row.get("label")
    if not isinstance(label, bool):
        raise BadLine("label must be true or false." if "label" in row else "label is missing.")
    return Thumb(line, _prompt(row), _answer(row, "completion"), label)


def _ranking(row: Mapping[str, Any], line: int) -> Ranking:
    only_known(row, {"prompt", "completions", "ranks", "margin"}, "")
    given = row["completions"]
    if not isinstance(given, list) or len(given) < 2:
        raise BadLine("completions must be a list of two or more answers, the best one first.")
    answers = tuple(_answer({f"completions[{i}]": item}, f"completions[{i}]") for i, item in enumerate(given))
    ranks = row.get("ranks", list(range(len(answers))))
    whole = isinstance(ranks, list) and all(isinstance(r, int) and not isinstance(r, bool) for r in ranks)
    if not whole or len(ranks) != len(answers):
        raise BadLine("ranks must be one whole number for each of completions, the lowest for the best.")
    margin = row.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin <= 100:
        raise BadLine("margin must be a number from 0 to 100.")
    return Ranking(line, _prompt(row), answers, tuple(ranks), float(margin))


def _asked(row: Mapping[str, Any], line: int) -> Asked:
    if ("messages" in row) == ("prompt" in row):
        raise BadLine("must have either messages or prompt.")
    messages = tuple(parse_messages(row["messages"], "messages")) if "messages" in row else _prompt(row)
    if messages[-1].role == "assistant":
        raise BadLine("ends with an assistant turn; the model is to write that one.")
    return Asked(line, messages, {name: value for name, value in row.items() if name != "messages"})


def _reinforcement(row: Mapping[str, Any], line: int) -> Asked:
    if "messages" not in row:
        raise BadLine("messages is missing.")
    messages = tuple(parse_messages(row["messages"], "messages"))
    if messages[-1].role != "user":
        raise BadLine(f"messages[{len(messages) - 1}].role is '{messages[-1].role}'; the last message must be 'user'.")
    if row.get("tools"):
        raise BadLine("tools are not offered to the model while it is trained by reinforcement here.")
    return Asked(line, messages, {name: value for name, value in row.items() if name not in ("messages", "tools")})


def _prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    prompt = _turns(row, "prompt", "user")
    if prompt[-1].role not in ("user", "tool"):
        raise BadLine(f"prompt[{len(prompt) - 1}].role is '{prompt[-1].role}'; the last one must be 'user' or 'tool'.")
    return prompt


def _answer(row: Mapping[str, Any], name: str) -> Message:
    answer = _turns(row, name, "assistant")
    if len(answer) != 1 or answer[0].role != "assistant":
        raise BadLine(f"{name} must be one assistant message, or its text.")
    return answer[0]


def _turns(row: Mapping[str, Any], name: str, role: str) -> tuple[Message, ...]:
    value = row.get(name)
    if value is None:
        raise BadLine(f"{name} is missing.")
    if isinstance(value, str):
        if not value.strip():
            raise BadLine(f"{name} is empty.")
        return (Message("user" if role == "user" else "assistant", value),)
    return tuple(parse_messages(value, name))
