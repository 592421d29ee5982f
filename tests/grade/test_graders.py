"""Each kind of grader against hand values, and what each says when something goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from tutee.errors import InvalidInput, Unavailable
from tutee.grade import (
    ERROR_KEYS,
    Ask,
    Failure,
    Grade,
    ModelAnswer,
    ModelQuestion,
    Sample,
    Tools,
    Usage,
    parse_grader,
)
from tutee.grade.definition import CRITERIA
from tutee.grade.model_graders import read_label, read_score

ITEM = {"answer": "Paris", "question": "Capital of France?"}
JUDGE = {"type": "score_model", "name": "judge", "model": "m", "input": [{"role": "user", "content": "?"}]}
LABEL = {
    "type": "label_model",
    "name": "mood",
    "model": "m",
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
    "labels": ["good", "bad", "not good"],
    "passing_labels": ["good"],
}


def check(operation: str, reference: str = "{{ item.answer }}", name: str = "check") -> dict[str, Any]:
    text = "{{ sample.output_text }}"
    return {"type": "string_check", "name": name, "input": text, "reference": reference, "operation": operation}


def run(raw: Mapping[str, Any], text: str = "Paris", tools: Tools | None = None, kinds: Any = None) -> Grade:
    grader = parse_grader(raw, kinds=kinds) if kinds else parse_grader(raw)
    return grader.grade(ITEM, Sample(text), tools or Tools())


def answering(text: str, score: float | None = None, **more: Any) -> Ask:
    return lambda question: ModelAnswer(text, Usage(7, 3), question.model, score=score, **more)


@pytest.mark.parametrize(
    ("operation", "text", "reward"),
    [
        ("eq", "Paris", 1),
        ("eq", "paris", 0),
        ("ne", "paris", 1),
        ("ne", "Paris", 0),
        ("like", "It is Paris.", 1),
        ("like", "It is paris.", 0),
        ("ilike", "It is PARIS.", 1),
        ("ilike", "Par", 0),
    ],
)
def test_string_check(operation: str, text: str, reward: float) -> None:
    assert run(check(operation), text).reward == reward


def test_text_similarity() -> None:
    raw = {**check("eq"), "type": "text_similarity", "evaluation_metric": "rouge_1"}
    del raw["operation"]
    grade = run(raw, "Paris in France")
    assert grade.reward == pytest.approx(0.5)
    assert not grade.failed
    long = run(raw, "x" * 300_000)
    assert set(long.errors) == {"truncated_observation_error"}


def test_a_score_model_is_asked_with_the_instruction_and_answers_in_the_range() -> None:
    asked: list[ModelQuestion] = []

    def ask(question: ModelQuestion) -> ModelAnswer:
        asked.append(question)
        return ModelAnswer('{"result": 4.5}', Usage(10, 2), "m-resolved")

    raw = {
        **JUDGE,
        "range": [1, 5],
        "input": [
            {"role": "system", "content": "Judge."},
            {"role": "user", "content": [{"type": "input_text", "text": "Is {{ sample.output_text }}"}, " right?"]},
        ],
        "sampling_params": {"seed": 3, "max_completions_tokens": 9},
    }
    grade = run(raw, tools=Tools(ask))
    assert (grade.reward, grade.model, grade.said) == (4.5, "m-resolved", '{"result": 4.5}')
    assert grade.usage == {"m-resolved": Usage(10, 2)}
    question = asked[0]
    assert question.sampling == {"temperature": 0.0, "seed": 3, "max_tokens": 9}
    assert question.messages[1]["content"] == "Is Paris right?"
    told = question.with_instruction()
    assert told[0] == {"role": "system", "content": "Judge."}
    assert told[1]["content"].startswith("Is Paris right?\n\nAnswer with nothing but")
    assert "from 1 to 5" in told[1]["content"]
    assert question.schema is not None
    assert question.schema["properties"]["result"]["maximum"] == 5.0


def test_a_reward_models_score_is_brought_into_the_range_in_order() -> None:
    raw = {**JUDGE, "range": [-1, 3]}
    rewards = [run(raw, tools=Tools(answering("", score))).reward for score in (-1e9, -1.0, 0.0, 1.0, 1e9)]
    assert rewards == sorted(rewards)
    assert (rewards[0], rewards[2], rewards[-1]) == (-1.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ('{"result": 0.5}', 0.5),
        ('Sure: {"steps": [], "result": 1}', 1.0),
        ("0.25", 0.25),
        (" -3 ", -3.0),
        ("Score: 7", 7.0),
        ("The **rating** is 3", None),
        ("rating = 3/5", 3.0),
        ("Score: 7. No, score: 8", None),
        ("It is good", None),
        ("5 of 10", None),
        ('{"result": "high"}', None),
        ('{"result": true}', None),
        ("", None),
        ("{" * 5000, None),
        ('{"a":' * 5000 + "}" * 5000, None),
        ('{"result": ' + "9" * 400 + "}", math.inf),
    ],
)
def test_scores_are_read_only_where_there_is_one(said: str, score: float | None) -> None:
    assert read_score(said) == score


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ('{"label": "bad"}', "bad"),
        ("Good.", "good"),
        ("not good", "not good"),
        ("I would say bad", "bad"),
        ("good or bad", None),
        ("goodness", None),
        ("", None),
    ],
)
def test_labels_are_read_only_where_there_is_one(said: str, label: str | None) -> None:
    assert read_label(said, ["good", "bad", "not good"]) == label


def test_label_models_pass_by_their_passing_labels() -> None:
    assert run(LABEL, tools=Tools(answering('{"label": "good"}')), kinds=CRITERIA).reward == 1.0
    bad = run(LABEL, tools=Tools(answering('{"label": "bad"}')), kinds=CRITERIA)
    assert (bad.reward, bad.said, bad.failed) == (0.0, "bad", False)


def raising(error: Exception) -> Ask:
    def ask(question: ModelQuestion) -> ModelAnswer:
        raise error

    return ask


@pytest.mark.parametrize(
    ("ask", "flags"),
    [
        (answering("no number"), {"model_grader_parse_error"}),
        (answering("7"), {"model_grader_parse_error"}),
        (answering("", refusal="I will not"), {"model_grader_refusal_error"}),
        (raising(Unavailable("down")), {"model_grader_server_error"}),
        (raising(InvalidInput("long", code="context_length_exceeded")), {"truncated_observation_error"}),
        (raising(TimeoutError()), {"unresponsive_reward_error", "model_grader_server_error"}),
        (None, {"model_grader_server_error"}),
    ],
)
def test_what_a_judge_does_wrong_has_its_flag(ask: Ask | None, flags: set[str]) -> None:
    grade = run(JUDGE, tools=Tools(ask))
    assert (set(grade.errors), grade.reward, grade.failed) == (flags, 0.0, True)
    keys = grade.error_keys()
    assert set(keys) == set(ERROR_KEYS)
    assert len(keys) == 14
    assert {name for name, value in keys.items() if value is True} == flags
    if "model_grader_server_error" in flags:
        assert keys["model_grader_server_error_details"]


def test_python_goes_to_whoever_runs_it() -> None:
    raw = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1", "image_tag": "2025-05-08"}

    def run_python(source: str, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        assert (source, sample["output_text"], item["answer"]) == (raw["source"], "Paris", "Paris")
        return 0.75

    assert run(raw, tools=Tools(run_python=run_python)).reward == 0.75
    assert set(run(raw).errors) == {"python_grader_server_error"}
    assert set(run(raw, tools=Tools(run_python=lambda *_: float("inf"))).errors) == {"other_error"}


@pytest.mark.parametrize("form", ["dict", "list", "single"])
def test_multi_takes_its_graders_in_every_form(form: str) -> None:
    eq, like = check("eq", name="same"), check("ilike", "par", name="part")
    graders: Any = {"dict": {"same": eq, "part": like}, "list": [eq, like], "single": eq}[form]
    formula = "same" if form == "single" else "0.5 * same + 2 * part"
    raw = {"type": "multi", "name": "both", "graders": graders, "calculate_output": formula}
    grade = run(raw)
    assert grade.reward == (1.0 if form == "single" else 2.5)
    assert grade.sub_rewards == ({"same": 1.0} if form == "single" else {"same": 1.0, "part": 1.0})
    assert isinstance(parse_grader(raw).definition["graders"], dict)
    assert grade.to_dict()["metadata"]["scores"] == dict(grade.sub_rewards)


def test_a_part_that_fails_fails_the_whole_and_the_other_numbers_stay() -> None:
    broken = {**JUDGE, "name": "judge"}
    raw = {
        "type": "multi",
        "name": "both",
        "graders": [check("eq", name="same"), broken],
        "calculate_output": "same + judge",
    }
    grade = run(raw, tools=Tools(answering("no idea")))
    assert set(grade.errors) == {"model_grader_parse_error"}
    assert grade.errors["model_grader_parse_error"].startswith("judge:")
    assert (grade.reward, grade.sub_rewards, grade.usage) == (0.0, {"same": 1.0}, {})


def test_usage_of_all_judges_is_summed() -> None:
    judges = [{**JUDGE, "name": "a"}, {**JUDGE, "name": "b"}, {**JUDGE, "name": "c", "model": "other"}]
    raw = {"type": "multi", "name": "all", "graders": judges, "calculate_output": "a + b + c"}
    grade = run(raw, tools=Tools(answering("1")))
    assert grade.usage == {"m": Usage(14, 6, invocations=2), "other": Usage(7, 3)}
    assert grade.to_dict()["metadata"]["token_usage"] == 30
    assert parse_grader(raw).models() == {"m", "other"}


def test_a_formula_without_a_value_is_a_formula_error() -> None:
    raw = {"type": "multi", "name": "m", "graders": [check("ne", name="zero")], "calculate_output": "1 / zero"}
    assert set(run(raw).errors) == {"formula_parse_error"}


def test_failures_name_the_variable() -> None:
    grade = run(check("eq", "{{ item.nowhere }}"))
    assert set(grade.errors) == {"invalid_variable_error"}
    assert "nowhere" in grade.errors["invalid_variable_error"]
    assert Grade.of_failure("n", "t", Failure("other_error", "why")).to_dict()["metadata"]["x_errors"] == {
        "other_error": "why"
    }
