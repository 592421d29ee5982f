"""Environments: where a reinforcement run gets its questions, and what it asks whether an answer is right.

Two methods: `question(index)` gives question number `index` of an endless stream (the same index always gives the same
question, so a run that resumes needs nothing but a number), `score(question, text)` judges an answer. Knows text and
numbers; nothing of tokens, models or how rewards are mixed (`rewards.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from tutee.conversation import Message, parse_messages
from tutee.errors import InvalidInput, Unavailable

Match = Literal["exact", "contains", "number", "none"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Question:
    """What the policy is asked, and what a judge may look at.

    Args:
        messages: the conversation to answer.
        item: the data behind it as JSON values (OpenAI's graders call it `item`), such as `answer`.
    """

    messages: tuple[Message, ...]
    item: Mapping[str, Any] = field(default_factory=dict)


class Environment(Protocol):
    """A source of questions that can judge answers."""

    def question(self, index: int) -> Question:
        """Question number `index` ≥ 0 of the stream."""
        ...

    def score(self, question: Question, text: str) -> float:
        """How good the answer is; 1 is right and 0 is wrong unless the environment says otherwise."""
        ...


class QuestionList:
    """A finite list, walked through in a new order each epoch; the order is a function of (seed, epoch)."""

    def __init__(self, questions: Sequence[Question], seed: int = 0, match: Match = "exact") -> None:
        if not questions:
            raise InvalidInput(
                "There is nothing to train on: the data has no rows.", param="data", code="empty_dataset"
            )
        if match != "none":
            for i, question in enumerate(questions):
                if not isinstance(question.item.get("answer"), str):
                    raise InvalidInput(
                        f"Row {i + 1} has no 'answer' to compare with; add one, or set match to 'none' and give a "
                        "reward of your own.",
                        param=f"data[{i}].answer",
                        code="missing_required_parameter",
                    )
        self.questions = tuple(questions)
        self.match: Match = match
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self.questions)

    def question(self, index: int) -> Question:
        epoch, place = divmod(index, len(self.questions))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self.questions)).tolist()
        return self.questions[self._order[place]]

    def score(self, question: Question, text: str) -> float:
        if self.match == "none":
            return 0.0
        return float(matches(text, str(question.item["answer"]), self.match))


def matches(text: str, answer: str, how: Match) -> bool:
    """Whether an answer is the expected one: the whole text, somewhere in it, or its last number."""
    if how == "exact":
        return text.strip() == answer.strip()
    if how == "contains":
        return answer.strip().lower() in text.lower()
    found, wanted = _NUMBER.findall(text), _NUMBER.findall(answer)
    return bool(found and wanted) and float(found[-1].replace(",", "")) == float(wanted[-1].replace(",", ""))


def read_questions(path: Path, seed: int = 0, match: Match = "exact") -> QuestionList:
    """Questions from a JSONL file: each line an object with `messages` (or `prompt`, a string) and what judges need.

    Raises:
        InvalidInput: an unreadable file, or a line that is no such object, named by its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not at Unicode's line ends: they may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", param="data", code="unreadable_file") from error
    return QuestionList([_read_line(line, i) for i, line in enumerate(lines) if line.strip()], seed, match)


def _read_line(line: str, index: int) -> Question:
    where = f"line {index + 1}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidInput(f"{where} is not JSON: {error}", param=where, code="invalid_json") from None
    if not isinstance(row, dict) or ("messages" in row) == ("prompt" in row):
        raise InvalidInput(f"{where} must have either 'messages' or 'prompt'.", param=where, code="invalid_type")
    if "messages" in row:
        messages = tuple(parse_messages(row["messages"], f"{where}.messages"))
    elif isinstance(row["prompt"], str) and row["prompt"].strip():
        messages = (Message("user", row["prompt"]),)
    else:
        raise InvalidInput(
            f"'{where}.prompt' must be a text that is not empty.", param=f"{where}.prompt", code="invalid_type"
        )
    if messages[-1].role == "assistant":
        raise InvalidInput(
            f"{where} ends with an assistant turn; the policy is to write that one.",
            param=f"{where}.messages",
            code="invalid_value",
        )
    return Question(messages, {name: value for name, value in row.items() if name != "messages"})


class ReasoningGym:
    """A procedural task of the `reasoning-gym` package (Stojanovski et al. 2025, arXiv 2505.24760).

    Args:
        name: such as `basic_arithmetic`; the package lists them.
        instruction: put before every question.
        extract: the part of the answer that is judged; None: all of it. Text without that part is judged whole.
        settings: the task's own, such as `min_terms`.

    Raises:
        Unavailable: the package is not installed.
        InvalidInput: no such task or setting.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        instruction: str = "",
        extract: Callable[[str], str | None] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import reasoning_gym  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError as error:
            raise Unavailable(
                "The package reasoning-gym is not installed: pip install 'tutee[gym]'.", param="environment"
            ) from error
        try:
            self._tasks = reasoning_gym.create_dataset(name, size=2**31 - 1, seed=seed, **(settings or {}))
        except (ValueError, TypeError, AssertionError) as error:
            raise InvalidInput(
                f"reasoning-gym refuses the task {name!r}: {error}", param="environment", code="invalid_value"
            ) from error
        self._instruction = instruction
        self._extract = extract

    def question(self, index: int) -> Question:
        entry = self._tasks[index]
        text = f"{self._instruction}{entry['question']}"
        return Question((Message("user", text),), {"index": index, "answer": entry["answer"]})

    def score(self, question: Question, text: str) -> float:
        part = self._extract(text) if self._extract is not None else None
        answer = text.strip() if part is None else part
        return float(self._tasks.score_answer(answer=answer, entry=self._tasks[question.item["index"]]))
