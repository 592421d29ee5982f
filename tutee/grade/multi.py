"""The grader of graders: a formula over the results of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutee.grade.formula import Formula, FormulaError
from tutee.grade.grader import Grader, Tools
from tutee.grade.result import Failure, Grade, add_usage


class Multi(Grader):
    """Every sub-grader, then the formula. One that fails fails the whole, with its flags; the others' numbers stay."""

    type = "multi"

    def __init__(self, definition: Mapping[str, Any], parts: Mapping[str, Grader], formula: Formula) -> None:
        super().__init__(definition["name"], definition)
        self._parts = dict(parts)
        self._formula = formula

    def models(self) -> set[str]:
        return {model for part in self._parts.values() for model in part.models()}

    def sources(self) -> set[str]:
        return {source for part in self._parts.values() for source in part.sources()}

    def measure(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        grades = {name: part.grade_names(names, tools) for name, part in self._parts.items()}
        results = {name: grade.reward for name, grade in grades.items() if not grade.failed}
        errors = {flag: f"{name}: {said}" for name, grade in grades.items() for flag, said in grade.errors.items()}
        reward = 0.0
        if not errors:
            try:
                reward = self._formula.value(results)
            except FormulaError as error:
                failure = Failure("formula_parse_error", f"The formula has no value: {error}.")
                errors = dict.fromkeys(failure.flags, failure.message)
        return Grade(
            self.name,
            self.type,
            reward,
            errors,
            results,
            add_usage(*(grade.usage for grade in grades.values())),
            model=next((grade.model for grade in grades.values() if grade.model is not None), None),
        )
