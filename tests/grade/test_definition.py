"""A wrong definition is refused before anything runs, naming the field by its path."""

from __future__ import annotations

from typing import Any

import pytest

from tutee.errors import InvalidInput
from tutee.grade import parse_grader
from tutee.grade.definition import CRITERIA

CHECK = {"type": "string_check", "name": "c", "input": "a", "reference": "b", "operation": "eq"}
SIMILAR = {"type": "text_similarity", "name": "s", "input": "a", "reference": "b", "evaluation_metric": "bleu"}
SCORE = {"type": "score_model", "name": "j", "model": "m", "input": [{"role": "user", "content": "?"}]}
LABEL = {**SCORE, "type": "label_model", "labels": ["x", "y"], "passing_labels": ["x"]}
PYTHON = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}
MULTI = {"type": "multi", "name": "m", "graders": {"c": CHECK}, "calculate_output": "c"}
PART = "graders.c"


@pytest.mark.parametrize(
    ("base", "change", "param", "code"),
    [
        (CHECK, {"type": None}, "type", "missing_required_parameter"),
        (CHECK, {"type": "wizard"}, "type", "invalid_value"),
        (CHECK, {"type": "label_model"}, "type", "invalid_value"),
        (CHECK, {"name": None}, "name", "missing_required_parameter"),
        (CHECK, {"name": ""}, "name", "string_below_min_length"),
        (CHECK, {"name": "n" * 300}, "name", "string_above_max_length"),
        (CHECK, {"input": 3}, "input", "invalid_type"),
        (CHECK, {"reference": None}, "reference", "missing_required_parameter"),
        (CHECK, {"operation": "EQ"}, "operation", "invalid_value"),
        (CHECK, {"operaton": "eq"}, "operaton", "unknown_parameter"),
        (CHECK, {"input": "{{ other.x }}"}, "input", "invalid_variable_error"),
        (SIMILAR, {"evaluation_metric": "rouge_6"}, "evaluation_metric", "invalid_value"),
        (SIMILAR, {"pass_threshold": 0.5}, "pass_threshold", "unknown_parameter"),
        (SCORE, {"model": None}, "model", "missing_required_parameter"),
        (SCORE, {"input": []}, "input", "invalid_value"),
        (SCORE, {"input": "text"}, "input", "invalid_type"),
        (SCORE, {"input": [{"role": "wizard", "content": "x"}]}, "input[0].role", "invalid_value"),
        (SCORE, {"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        (
            SCORE,
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input[0].content[0].type",
            "unsupported_value",
        ),
        (
            SCORE,
            {"input": [{"role": "user", "content": "{{ self }}"}]},
            "input[0].content",
            "invalid_variable_error",
        ),
        (SCORE, {"range": [1]}, "range", "invalid_value"),
        (SCORE, {"range": [1, 1]}, "range", "invalid_value"),
        (SCORE, {"range": ["0", 1]}, "range", "invalid_value"),
        (SCORE, {"range": [0, float("inf")]}, "range", "invalid_value"),
        (SCORE, {"sampling_params": {"temperature": 3}}, "sampling_params.temperature", "invalid_value"),
        (SCORE, {"sampling_params": {"seed": 1.5}}, "sampling_params.seed", "invalid_type"),
        (SCORE, {"sampling_params": {"max_tokens": 5}}, "sampling_params.max_tokens", "unknown_parameter"),
        (SCORE, {"sampling_params": {"reasoning_effort": "huge"}}, "sampling_params.reasoning_effort", "invalid_value"),
        (PYTHON, {"source": "def grade(:"}, "source", "invalid_python"),
        (PYTHON, {"source": ""}, "source", "string_below_min_length"),
        (PYTHON, {"source": "#" * (256 * 1024 + 1)}, "source", "string_above_max_length"),
        (PYTHON, {"source": "-" * 200_000 + "1"}, "source", "invalid_python"),
        (PYTHON, {"source": "(" * 5000}, "source", "invalid_python"),
        (MULTI, {"graders": None}, "graders", "missing_required_parameter"),
        (MULTI, {"graders": {}}, "graders", "invalid_value"),
        (MULTI, {"graders": [CHECK, CHECK]}, "graders", "invalid_value"),
        (MULTI, {"graders": {"c": {**CHECK, "operation": "x"}}}, f"{PART}.operation", "invalid_value"),
        (MULTI, {"graders": {"c": MULTI}}, f"{PART}.type", "invalid_value"),
        (MULTI, {"graders": {"c": None}}, PART, "missing_required_parameter"),
        (MULTI, {"calculate_output": "c +"}, "calculate_output", "formula_parse_error"),
        (MULTI, {"calculate_output": "d"}, "calculate_output", "formula_parse_error"),
        (MULTI, {"calculate_output": None}, "calculate_output", "missing_required_parameter"),
    ],
)
def test_the_field_is_named(base: dict[str, Any], change: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_grader({**base, **change}, "method.reinforcement.grader")
    assert (caught.value.param, caught.value.code) == (f"method.reinforcement.grader.{param}", code)
    assert f"method.reinforcement.grader.{param}" in caught.value.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"labels": []}, "labels"),
        ({"labels": ["x", "x"]}, "labels"),
        ({"labels": ["x", 3]}, "labels"),
        ({"passing_labels": ["z"]}, "passing_labels"),
        ({"passing_labels": []}, "passing_labels"),
    ],
)
def test_labels(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_grader({**LABEL, **change}, "grader", CRITERIA)
    assert caught.value.param == f"grader.{param}"


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_a_definition_is_an_object(raw: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_grader(raw, "grader")
    assert caught.value.param == "grader"


@pytest.mark.parametrize("raw", [CHECK, SIMILAR, SCORE, PYTHON, MULTI])
def test_the_normalised_definition_reads_back_as_itself(raw: dict[str, Any]) -> None:
    grader = parse_grader({**raw, "id": "grader-1", "image_tag": None})
    assert parse_grader(grader.definition).definition == grader.definition


def test_the_inputs_of_a_definition_are_not_changed() -> None:
    part = {key: value for key, value in CHECK.items() if key != "name"}
    raw = {**MULTI, "graders": {"c": part}}
    parse_grader(raw)
    assert "name" not in part
