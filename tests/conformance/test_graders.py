"""T75, T79: graders, each type against a hand value; what is wrong, and what is hostile, is said and contained."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

CHECK = {"type": "string_check", "name": "c", "input": "{{ sample.output_text }}", "reference": "Paris"}
PYTHON = {"type": "python", "name": "p"}


def run(client: openai.OpenAI, grader: dict[str, Any], sample: str = "Paris", item: Any = None) -> Any:
    return client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item or {})  # type: ignore[arg-type]


@pytest.mark.conformance("T75")
def test_reinforcement_without_a_grader(client: openai.OpenAI) -> None:
    row = {"messages": [{"role": "user", "content": "?"}], "answer": "x"}
    file = client.files.create(file=("rft.jsonl", json.dumps(row).encode()), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="chat",
            training_file=file.id,
            method={"type": "reinforcement", "reinforcement": {}},  # type: ignore[arg-type]
        )
    assert caught.value.param == "method.reinforcement.grader"


@pytest.mark.conformance("T79")
@pytest.mark.parametrize(
    ("operation", "sample", "reward"),
    [("eq", "Paris", 1), ("ne", "Paris", 0), ("like", "in Paris", 1), ("like", "in paris", 0), ("ilike", "PARIS!", 1)],
)
def test_string_check(strict_client: openai.OpenAI, operation: str, sample: str, reward: float) -> None:
    assert run(strict_client, {**CHECK, "operation": operation}, sample).reward == reward


@pytest.mark.conformance("T79")
@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("fuzzy_match", 0.93),
        ("bleu", 0.38),
        ("gleu", 0.5),
        ("meteor", 0.81),
        ("cosine", 0.875),
        ("rouge_1", 5 / 6),
        ("rouge_2", 0.6),
        ("rouge_3", 0.25),
        ("rouge_4", 0),
        ("rouge_5", 0),
        ("rouge_l", 5 / 6),
    ],
)
def test_text_similarity(strict_client: openai.OpenAI, metric: str, value: float) -> None:
    grader = {**CHECK, "type": "text_similarity", "reference": "the cat is on the mat", "evaluation_metric": metric}
    assert run(strict_client, grader, "the cat sat on the mat").reward == pytest.approx(value, abs=0.01)


@pytest.mark.conformance("T79")
def test_a_score_model_gives_a_number_in_its_range(strict_client: openai.OpenAI, model: str) -> None:
    ask = [{"role": "user", "content": "How polite is this? {{ sample.output_text }}"}]
    done = run(strict_client, {"type": "score_model", "name": "s", "model": model, "input": ask, "range": [1, 5]})
    assert not any(value is True for value in done.metadata.errors.model_dump().values()), done
    assert 1 <= done.reward <= 5
    assert done.metadata.sampled_model_name == model
    assert done.metadata.token_usage > 0


@pytest.mark.conformance("T79")
def test_a_label_model_inside_a_multi_grader(strict_client: openai.OpenAI, model: str) -> None:
    label = {
        "type": "label_model",
        "name": "l",
        "model": model,
        "input": [{"role": "user", "content": "Is a city named? {{ sample.output_text }}"}],
        "labels": ["yes", "no"],
        "passing_labels": ["yes", "no"],
    }
    multi = {"type": "multi", "name": "m", "graders": {"l": label}, "calculate_output": "l"}
    assert run(strict_client, multi).reward == 1.0


@pytest.mark.conformance("T79")
def test_python(strict_client: openai.OpenAI) -> None:
    source = "import math\ndef grade(sample, item):\n    return math.sqrt(len(sample['output_text']) + item['more'])\n"
    assert run(strict_client, {**PYTHON, "source": source}, item={"more": 4}).reward == 3.0


@pytest.mark.conformance("T79")
@pytest.mark.parametrize("form", ["dict", "list"])
def test_multi_in_both_forms(strict_client: openai.OpenAI, form: str) -> None:
    a, b = {**CHECK, "name": "a", "operation": "eq"}, {**CHECK, "name": "b", "operation": "ne"}
    graders: Any = {"a": a, "b": b} if form == "dict" else [a, b]
    formula = "(2 * a + b) ^ 2 - min(a, b) + log(exp(1))"
    done = run(strict_client, {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula})
    assert done.reward == pytest.approx(5.0)
    assert done.sub_rewards == {"a": 1.0, "b": 0.0}


@pytest.mark.conformance("T79")
def test_a_bad_formula(strict_client: openai.OpenAI) -> None:
    grader = {"type": "multi", "name": "m", "graders": [{**CHECK, "operation": "eq"}], "calculate_output": "c +"}
    assert run(strict_client, grader).metadata.errors.formula_parse_error
    with pytest.raises(openai.BadRequestError) as caught:
        strict_client.fine_tuning.alpha.graders.validate(grader=grader)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.param) == ("formula_parse_error", "grader.calculate_output")


@pytest.mark.conformance("T79")
@pytest.mark.parametrize(
    "body",
    [
        "import socket; socket.create_connection(('1.1.1.1', 80), 1)",
        "import shutil; shutil.rmtree('/'); open('/usr/bin/env').read()",
        "import os\n    while True: os.fork()",
        "x = bytearray(8 << 30)",
        "open('/etc/passwd')",
    ],
)
def test_hostile_python_is_contained(strict_client: openai.OpenAI, body: str) -> None:
    errors = run(strict_client, {**PYTHON, "source": f"def grade(sample, item):\n    {body}\n"}).metadata.errors
    assert errors.python_grader_runtime_error
    assert errors.python_grader_runtime_error_details
    assert strict_client.models.list().data, "the server still answers"


@pytest.mark.conformance("T79", slow=True)
def test_an_infinite_loop_is_ended(strict_client: openai.OpenAI) -> None:
    errors = run(
        strict_client, {**PYTHON, "source": "def grade(sample, item):\n    while True: pass\n"}
    ).metadata.errors
    assert errors.python_grader_runtime_error
    assert errors.unresponsive_reward_error
