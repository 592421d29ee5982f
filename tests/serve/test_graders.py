"""Graders over HTTP: tried and checked before a job uses them, with the models that are served as judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import torch

from tests.serve.conftest import Running, add_candidate, serving
from tutee.conversation import Message
from tutee.model.lora import Lora
from tutee.model.value_head import ValueHead, hidden_states
from tutee.settings import Settings

CHECK = {"type": "string_check", "name": "c", "input": "{{ sample.output_text }}", "reference": "x", "operation": "eq"}
JUDGE = {"type": "score_model", "name": "j", "model": "tiny", "input": [{"role": "user", "content": "Rate."}]}
LOOP = {"type": "python", "name": "p", "source": "def grade(sample, item):\n    import socket\n    socket.socket()\n"}


@pytest.fixture
def own(make_home: Callable[..., Settings]) -> Iterator[Running]:
    with serving(make_home()) as running:
        yield running


def run(sdk: openai.OpenAI, grader: dict[str, Any], sample: str = "x", **more: Any) -> Any:
    return sdk.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, **more)  # type: ignore[arg-type]


def test_run_answers_in_openais_shape(sdk: openai.OpenAI) -> None:
    done = run(sdk, CHECK)
    assert (done.reward, done.sub_rewards, done.metadata.name, done.metadata.type) == (1.0, {}, "c", "string_check")
    assert done.metadata.scores == {"c": 1.0}
    assert not any(value is True for value in done.metadata.errors.model_dump().values())
    multi = {"type": "multi", "name": "m", "graders": [CHECK], "calculate_output": "c / 2"}
    assert (run(sdk, multi).reward, run(sdk, multi).sub_rewards) == (0.5, {"c": 1.0})


def test_items_and_json_samples_reach_the_grader(sdk: openai.OpenAI) -> None:
    grader = {**CHECK, "input": "{{ sample.output_json.a }}", "reference": "{{ item.want }}"}
    assert run(sdk, grader, '{"a": 3}', item={"want": 3}).reward == 1.0
    failed = run(sdk, grader, "no json", item={"want": 3}).metadata.errors
    assert failed.sample_parse_error


def test_a_served_model_judges_in_the_form_that_is_asked(sdk: openai.OpenAI) -> None:
    done = run(sdk, {**JUDGE, "range": [0, 1], "sampling_params": {"temperature": 1, "seed": 3}})
    assert done.metadata.sampled_model_name == "tiny"
    usage = done.api_model_grader_token_usage_per_model["tiny"]
    assert isinstance(usage, dict)
    assert done.metadata.token_usage == usage["total_tokens"] > 0
    errors = done.metadata.errors
    assert errors.api_model_grader_parse_error or 0 <= done.reward <= 1


def test_a_reward_model_scores_the_answer(own: Running) -> None:
    store, base = own.services.store, own.services.live.base
    add_candidate(own, "taste")
    version = store.versions.get("taste")
    head = ValueHead(base.model.config.hidden_size, seed=1)
    head.save(own.services.settings.home / version.folder)
    said = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "{{ sample.output_text }}"}]
    grader = {**JUDGE, "model": "taste", "input": said, "range": [-1, 1]}
    sdk = own.strict()
    done = {text: run(sdk, grader, text) for text in ("good day", "go away", "good day ")}
    rewards = {text: each.reward for text, each in done.items()}
    assert all(-1 < reward < 1 for reward in rewards.values())
    assert len(set(rewards.values())) == 3
    assert run(sdk, grader, "good day").reward == rewards["good day"]
    assert done["good day"].metadata.sampled_model_name == "taste"

    by_hand = own.services.judges.rewards
    messages = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "good day"}]
    score, _ = by_hand.score(version, messages)
    prompt, answer = base.model.chat_format.render_answer([Message("user", "Hello?")], Message("assistant", "good day"))
    lora = Lora.load(own.services.settings.home / version.folder, base.model.config, base.model.weights_sha256)
    with torch.no_grad():
        _, hidden = next(iter(hidden_states(base.model.decoder, [[*prompt, *answer]], lora)))
        assert score == pytest.approx(float(head(hidden[-1:])[0]), abs=1e-6)
    assert rewards["good day"] == pytest.approx(2 / (1 + math.exp(-score)) - 1, abs=1e-6)
    key, _ = store.keys.add(store.actors.get_or_create("judge").id, "key", tokens_per_minute=10)
    with own.http(headers={"authorization": f"Bearer {key}"}) as http:
        asked = http.post("/v1/fine_tuning/alpha/graders/run", json={"grader": grader, "model_sample": "x" * 300})
    assert (asked.status_code, asked.headers["x-ratelimit-remaining-tokens"]) == (200, "0")

    errors = run(sdk, {**grader, "input": said[:1]}).metadata.errors
    assert "must end with the assistant's answer" in errors.api_model_grader_server_error_details


def test_a_judge_that_is_not_there_is_a_grading_error(sdk: openai.OpenAI) -> None:
    errors = run(sdk, {**JUDGE, "model": "nobody"}).metadata.errors
    assert errors.api_model_grader_server_error
    assert "nobody" in (errors.api_model_grader_server_error_details or "")


def test_formula_and_variable_errors_are_flags_in_run_and_refusals_in_validate(sdk: openai.OpenAI) -> None:
    formula = {"type": "multi", "name": "m", "graders": [CHECK], "calculate_output": "c +* 2"}
    variable = {**CHECK, "input": "{{ os.environ }}"}
    for grader, flag in ((formula, "formula_parse_error"), (variable, "invalid_variable_error")):
        done = run(sdk, grader)
        assert (done.reward, getattr(done.metadata.errors, flag)) == (0.0, True)
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.fine_tuning.alpha.graders.validate(grader=grader)  # type: ignore[arg-type]
        assert caught.value.code == flag


def test_python_is_contained(sdk: openai.OpenAI) -> None:
    errors = run(sdk, LOOP).metadata.errors
    assert errors.python_grader_runtime_error or errors.python_grader_server_error
    assert "rror" in str(errors.python_grader_runtime_error_details) or errors.python_grader_server_error_type


def test_validate_fills_in_the_defaults(sdk: openai.OpenAI, http: httpx.Client) -> None:
    assert sdk.fine_tuning.alpha.graders.validate(grader=CHECK).grader  # type: ignore[arg-type]
    reply = http.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": JUDGE})
    assert reply.json()["grader"]["range"] == [0, 1]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "grader"),
        ({"grader": None, "model_sample": "x"}, "grader"),
        ({"grader": {"type": "x"}, "model_sample": "x"}, "grader.type"),
        ({"grader": {**CHECK, "name": 3}, "model_sample": "x"}, "grader.name"),
        ({"grader": CHECK}, "model_sample"),
        ({"grader": CHECK, "model_sample": 3}, "model_sample"),
        ({"grader": CHECK, "model_sample": "x", "item": 3}, "item"),
    ],
)
def test_bad_bodies_are_a_400_that_names_the_field(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    reply = http.post("/v1/fine_tuning/alpha/graders/run", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_the_operator_can_turn_python_off(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(python_graders="off")) as running:
        errors = run(running.strict(), LOOP).metadata.errors
        assert errors.python_grader_server_error
        config = {"type": "custom", "item_schema": {"type": "object"}}
        asked = running.sdk().evals.create(data_source_config=config, testing_criteria=[LOOP])  # type: ignore[arg-type,list-item]
        rows = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {}}]}}
        with pytest.raises(openai.BadRequestError, match="TUTEE_PYTHON_GRADERS"):
            running.sdk().evals.runs.create(asked.id, data_source=rows)  # type: ignore[arg-type]


def test_unknown_fields_are_named_in_the_header(server: Running) -> None:
    with server.http() as http:
        body = {"grader": CHECK, "model_sample": "x", "item": {"any": 1}, "reference_answer": "old"}
        reply = http.post("/v1/fine_tuning/alpha/graders/run", json=body)
    assert (reply.status_code, reply.headers["x-ignored-params"]) == (200, "reference_answer")
