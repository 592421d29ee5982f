"""Graders that compare two texts: equal, contained, or how alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tutee.grade.grader import Grader, Tools
from tutee.grade.result import Failure, Grade
from tutee.grade.similarity import similarity
from tutee.grade.template import Template

OPERATIONS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}
"""`like` and `ilike`: the reference is part of the input, the second without regard to case."""


class StringCheck(Grader):
    """1 when the operation holds of input and reference, else 0."""

    type = "string_check"

    def __init__(self, definition: Mapping[str, Any], text: Template, reference: Template) -> None:
        super().__init__(definition["name"], definition)
        self._text, self._reference = text, reference
        self._holds = OPERATIONS[definition["operation"]]

    def measure(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        holds = self._holds(self._text.render(names), self._reference.render(names))
        return Grade(self.name, self.type, float(holds))


class TextSimilarity(Grader):
    """How alike input and reference are, from 0 to 1."""

    type = "text_similarity"

    def __init__(self, definition: Mapping[str, Any], text: Template, reference: Template) -> None:
        super().__init__(definition["name"], definition)
        self._text, self._reference = text, reference
        self._metric: str = definition["evaluation_metric"]

    def measure(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        try:
            score = similarity(self._metric, self._text.render(names), self._reference.render(names))
        except ValueError as error:
            raise Failure("truncated_observation_error", f"{self._metric}: {error}.") from None
        return Grade(self.name, self.type, score)
