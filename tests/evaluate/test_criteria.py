"""Criteria: thresholds, and what a row's results add up to."""

from __future__ import annotations

from typing import Any

import pytest

from tutee.errors import InvalidInput
from tutee.evaluate.criteria import grade_row, read_criteria
from tutee.grade import ModelAnswer, Sample, Tools, Usage

CHECK = {
    "type": "string_check",
    "name": "is",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.x }}",
    "operation": "eq",
}
LIKE = {**CHECK, "type": "text_similarity", "name": "like", "evaluation_metric": "rouge_1", "pass_threshold": 0.5}
del LIKE["operation"]
JUDGE = {"type": "score_model", "name": "judge", "model": "m", "input": [{"role": "user", "content": "?"}]}


def row(criteria: list[Any], text: str, tools: Tools | None = None) -> tuple[str, dict[str, bool], Any]:
    names = {"item": {"x": "one two"}, "sample": Sample(text).namespace()}
    graded, usage = grade_row(read_criteria(criteria), 7, names, {"kept": True}, tools or Tools())
    assert (graded.position, graded.item, graded.sample) == (7, {"x": "one two"}, {"kept": True})
    return graded.status, {result["name"]: result["passed"] for result in graded.results}, usage


def test_an_answer_passes_when_it_passes_every_criterion() -> None:
    assert row([CHECK, LIKE], "one two") == ("pass", {"is": True, "like": True}, {})
    assert row([CHECK, LIKE], "one three") == ("fail", {"is": False, "like": True}, {})
    assert row([CHECK, LIKE], "four") == ("fail", {"is": False, "like": False}, {})


def test_an_answer_that_cannot_be_graded_is_an_error_and_does_not_pass() -> None:
    broken = {**CHECK, "name": "broken", "input": "{{ sample.output_json.a }}"}
    assert row([CHECK, broken], "one two") == ("error", {"is": True, "broken": False}, {})


@pytest.mark.parametrize(
    ("bounds", "threshold", "score", "passed"),
    [([0, 1], None, 0.5, True), ([0, 1], None, 0.49, False), ([1, 5], None, 3, True), ([1, 5], 4, 3.9, False)],
)
def test_a_judge_passes_from_its_threshold_on_or_from_the_middle(
    bounds: list[float], threshold: float | None, score: float, passed: bool
) -> None:
    judge = {**JUDGE, "range": bounds, "pass_threshold": threshold}
    tools = Tools(lambda question: ModelAnswer(f"{score}", Usage(5, 1), "m"))
    status, results, usage = row([judge], "x", tools)
    assert (status, results) == ("pass" if passed else "fail", {"judge": passed})
    assert (usage["m"]["total_tokens"], usage["m"]["invocation_count"]) == (6, 1)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (None, "testing_criteria"),
        ({}, "testing_criteria"),
        ([], "testing_criteria"),
        ([3], "testing_criteria[0]"),
        ([CHECK, CHECK], "testing_criteria[1].name"),
        ([{**LIKE, "pass_threshold": None}], "testing_criteria[0].pass_threshold"),
        ([{**LIKE, "pass_threshold": "half"}], "testing_criteria[0].pass_threshold"),
        ([{**LIKE, "pass_threshold": float("nan")}], "testing_criteria[0].pass_threshold"),
        ([{**CHECK, "pass_threshold": 1}], "testing_criteria[0].pass_threshold"),
        ([CHECK, {"type": "multi"}], "testing_criteria[1].type"),
    ],
)
def test_the_field_is_named(raw: object, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_criteria(raw)
    assert caught.value.param == param


def test_the_definition_keeps_its_threshold() -> None:
    assert dict(read_criteria([LIKE])[0].definition) == LIKE


@pytest.mark.parametrize("kind", [{}, [], 7, None])
def test_a_type_that_is_no_word_is_an_error_like_any_other(kind: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_criteria([{"type": kind, "name": "x"}])
    assert caught.value.param == "testing_criteria[0].type"
