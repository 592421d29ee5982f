"""What every grader is, and the two tools that some of them need. To add a kind: a subclass, and its reader in
`definition.py`.

Does not know the kinds, nor who answers a question or runs a function.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tutee.grade.result import Failure, Grade, Usage
from tutee.grade.sample import Sample


@dataclass(frozen=True, slots=True)
class ModelQuestion:
    """What a grader wants to know of a model.

    Args:
        messages: dicts of `role` and `content` (text), in order.
        sampling: `temperature`, `top_p`, `seed`, `max_tokens`, `reasoning_effort`, as far as they were given.
        schema: JSON schema that the answer has to satisfy, for those who can hold a model to one.
        instruction: the same in a sentence, for a model that reads; a reward model must not be shown it.
    """

    model: str
    messages: Sequence[Mapping[str, str]]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    instruction: str = ""

    def with_instruction(self) -> list[dict[str, str]]:
        """The messages as a chat model gets them: the instruction ends the last user message, or is one of its own."""
        messages = [dict(message) for message in self.messages]
        if self.instruction and messages and messages[-1]["role"] == "user":
            messages[-1]["content"] += f"\n\n{self.instruction}"
        elif self.instruction:
            messages.append({"role": "user", "content": self.instruction})
        return messages


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What the model said.

    Args:
        model: its name as whoever answered resolved it.
        refusal: why it did not answer, if it refused.
        score: a reward model's score of the messages instead of a text; any real number.
    """

    text: str
    usage: Usage
    model: str
    refusal: str | None = None
    score: float | None = None
    truncated: bool = False
    """Whether it was cut off at its token limit."""


Ask = Callable[[ModelQuestion], ModelAnswer]
"""Raises Failure, or any TuteeError (which becomes `model_grader_server_error`)."""
RunPython = Callable[[str, Mapping[str, Any], Mapping[str, Any]], float]
"""(source, sample, item) -> what `grade(sample, item)` of that source returned. Raises Failure."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What graders may use beside the item and the sample; a grader that misses its tool fails and says so."""

    ask: Ask | None = None
    run_python: RunPython | None = None


class Grader(ABC):
    """A checked definition. Thread-safe; holds no state between grades."""

    type: ClassVar[str]

    def __init__(self, name: str, definition: Mapping[str, Any]) -> None:
        self.name = name
        self.definition = definition
        """OpenAI's JSON of it, defaults filled in."""

    @abstractmethod
    def measure(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        """The grade. `names` holds `item` and `sample` as plain JSON values. Raises Failure."""

    @property
    def middle(self) -> float:
        """The score from which on an eval without a threshold counts the answer as passed."""
        return 0.5

    def models(self) -> set[str]:
        """Names of the models that it asks."""
        return set()

    def sources(self) -> set[str]:
        """Python that it runs."""
        return set()

    def grade(self, item: Mapping[str, Any], sample: Sample, tools: Tools) -> Grade:
        """Grade one answer. Never raises for what the answer, the item, a judge or a person's function did wrong: then
        `errors` says what."""
        return self.grade_names({"item": item, "sample": sample.namespace()}, tools)

    def grade_names(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        """As `grade`, of the two namespaces."""
        began = time.perf_counter()
        try:
            grade = self.measure(names, tools)
            if not math.isfinite(grade.reward):
                raise Failure("other_error", f"The grader gave {grade.reward}, which is not a finite number.")
        except Failure as failure:
            grade = Grade.of_failure(self.name, self.type, failure)
        return grade.took(time.perf_counter() - began)
