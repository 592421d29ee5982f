"""An eval's criteria: graders, each with the score from which on an answer passes.

Knows graders; does not know where the answers come from (`eval_data.py`) nor who writes the results down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutee.errors import InvalidInput
from tutee.grade import Grade, Grader, Tools, parse_grader
from tutee.grade.definition import CRITERIA
from tutee.grade.result import add_usage
from tutee.store.evals import GradedRow

MOST = 64
THRESHOLDS = {"text_similarity", "score_model", "python"}
"""Kinds that may say from which score on an answer passes; `text_similarity` must."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One grader of an eval.

    Args:
        threshold: the least score that passes.
        definition: OpenAI's JSON of it, threshold included if it was given.
    """

    grader: Grader
    threshold: float
    definition: Mapping[str, Any]

    def result(self, grade: Grade) -> dict[str, Any]:
        """OpenAI's `results[]` entry; what the judge said, or what went wrong, is in its `sample`."""
        sample: dict[str, Any] = {}
        if grade.said is not None:
            sample = {"output": grade.said, "model": grade.model}
        if grade.failed:
            sample["errors"] = dict(grade.errors)
        return {
            "name": grade.name,
            "type": grade.type,
            "score": grade.reward,
            "passed": not grade.failed and grade.reward >= self.threshold,
            "sample": sample or None,
        }


def read_criteria(raw: object, param: str = "testing_criteria") -> list[Criterion]:
    """Criteria from their JSON.

    Raises:
        InvalidInput: naming the field at fault (`testing_criteria[2].pass_threshold`).
    """
    if raw is None:
        raise InvalidInput(f"'{param}' is missing.", param=param, code="missing_required_parameter")
    if not isinstance(raw, list):
        raise InvalidInput(f"'{param}' must be a list of graders.", param=param, code="invalid_type")
    if not 1 <= len(raw) <= MOST:
        raise InvalidInput(f"'{param}' must hold 1 to {MOST} graders.", param=param, code="invalid_value")
    criteria = [_criterion(each, f"{param}[{i}]") for i, each in enumerate(raw)]
    names = [criterion.grader.name for criterion in criteria]
    for i, name in enumerate(names):
        if name in names[:i]:
            where = f"{param}[{i}].name"
            raise InvalidInput(
                f"'{where}' is {name!r}, which another criterion has.", param=where, code="invalid_value"
            )
    return criteria


def _criterion(raw: object, param: str) -> Criterion:
    given = dict(raw) if isinstance(raw, Mapping) else raw
    threshold = None
    if isinstance(given, dict) and str(given.get("type")) in THRESHOLDS:
        threshold = given.pop("pass_threshold", None)
        _check_threshold(threshold, f"{param}.pass_threshold", needed=given["type"] == "text_similarity")
    grader = parse_grader(given, param, CRITERIA)
    definition = dict(grader.definition) | ({} if threshold is None else {"pass_threshold": threshold})
    return Criterion(grader, grader.middle if threshold is None else float(threshold), definition)


def _check_threshold(value: object, param: str, *, needed: bool) -> None:
    if value is None:
        if needed:
            raise InvalidInput(f"'{param}' is missing.", param=param, code="missing_required_parameter")
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(f"'{param}' must be a number.", param=param, code="invalid_type")


def grade_row(
    criteria: Sequence[Criterion], position: int, names: Mapping[str, Any], sample: Mapping[str, Any], tools: Tools
) -> tuple[GradedRow, dict[str, dict[str, int]]]:
    """One answer under all criteria, ready to be written down, and what its judges cost.

    Args:
        names: `item` and, if there is an answer, `sample`, as templates see them.
        sample: the answer as it is kept (`output_item.sample`).
    """
    grades = [criterion.grader.grade_names(names, tools) for criterion in criteria]
    results = [criterion.result(grade) for criterion, grade in zip(criteria, grades, strict=True)]
    failed = any(grade.failed for grade in grades)
    status = "error" if failed else "pass" if all(result["passed"] for result in results) else "fail"
    usage = add_usage(*(grade.usage for grade in grades))
    counted = {model: each.to_dict() | {"invocation_count": each.invocations} for model, each in usage.items()}
    return GradedRow(position, status, names["item"], sample, results), counted
