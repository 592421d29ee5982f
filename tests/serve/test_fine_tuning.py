"""Fine-tuning jobs through the official client in strict mode; no worker runs here, so no job gets any further."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import Running, add_candidate

LINE = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'


@pytest.fixture
def file(sdk: openai.OpenAI) -> str:
    return sdk.files.create(file=("rows.jsonl", LINE * 10), purpose="fine-tune").id


def test_a_supervised_job_with_defaults(sdk: openai.OpenAI, file: str) -> None:
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=file, suffix="mine", seed=3, metadata={"a": "b"})
    assert job.id.startswith("ftjob-")
    assert (job.status, job.model, job.training_file, job.seed) == ("validating_files", "tiny", file, 3)
    assert job.error is None
    assert job.method is not None
    assert job.method.type == "supervised"
    assert job.hyperparameters.n_epochs == "auto"
    assert job.metadata == {"a": "b"}
    assert sdk.fine_tuning.jobs.retrieve(job.id) == job
    assert list(sdk.fine_tuning.jobs.checkpoints.list(job.id)) == []


def test_a_dpo_job_with_hyperparameters(sdk: openai.OpenAI, file: str) -> None:
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2, "batch_size": "auto"}}}
    job = sdk.fine_tuning.jobs.create(model="chat", training_file=file, validation_file=file, method=method)
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.2
    assert job.method.dpo.hyperparameters.learning_rate_multiplier == "auto"
    assert job.validation_file == file
    assert job.model == "tiny"


def test_old_style_hyperparameters_are_supervised(sdk: openai.OpenAI, file: str) -> None:
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=file, hyperparameters={"n_epochs": 4})
    assert job.method is not None
    assert job.method.type == "supervised"
    assert job.hyperparameters.n_epochs == 4


def test_cancel_once_and_then_a_400_that_is_not_retried(server: Running, file: str) -> None:
    calls: list[Any] = []
    client = openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="x",
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [calls.append]}),
    )
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.retrieve(job.id).finished_at is not None
    calls.clear()
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)
    assert len(calls) == 1


def test_a_waiting_job_is_paused_and_resumed_and_cancelled(server: Running, file: str) -> None:
    jobs = server.sdk().fine_tuning.jobs
    job = jobs.create(model="tiny", training_file=file)
    assert str(jobs.pause(job.id).status) == "paused"
    assert str(jobs.retrieve(job.id).status) == "paused"
    assert jobs.resume(job.id).status == "validating_files"
    jobs.pause(job.id)
    assert jobs.cancel(job.id).status == "cancelled"


@pytest.mark.parametrize(
    ("before", "call", "code"),
    [((), "resume", "job_not_paused"), (("pause",), "pause", "job_paused"), (("cancel",), "pause", "job_ended"),
     (("cancel",), "resume", "job_ended"), (("cancel",), "cancel", "job_ended")],
)  # fmt: skip
def test_what_the_status_does_not_allow_is_one_400(
    http: httpx.Client, sdk: openai.OpenAI, file: str, before: tuple[str, ...], call: str, code: str
) -> None:
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=file)
    for first in before:
        assert http.post(f"/v1/fine_tuning/jobs/{job.id}/{first}").status_code == 200
    reply = http.post(f"/v1/fine_tuning/jobs/{job.id}/{call}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    assert reply.headers["x-should-retry"] == "false"


GRADER = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}


def test_a_reinforcement_job_shows_its_grader_and_form(sdk: openai.OpenAI, file: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    own: Any = {"grader": GRADER, "response_format": form, "hyperparameters": {"compute_multiplier": 2, "n_epochs": 3}}
    job = sdk.fine_tuning.jobs.create(
        model="tiny", training_file=file, method={"type": "reinforcement", "reinforcement": own}
    )
    assert job.method is not None
    assert job.method.type == "reinforcement"
    shown = job.method.reinforcement
    assert shown is not None
    assert shown.grader.type == "string_check"
    assert shown.hyperparameters is not None
    assert shown.hyperparameters.compute_multiplier == 2
    assert shown.hyperparameters.eval_interval == "auto"
    assert shown.model_dump()["response_format"] == form
    assert job.hyperparameters.model_dump(exclude_none=True) == {}


def test_our_own_method_travels_through_the_client(server: Running, file: str) -> None:
    client = server.sdk()
    method: Any = {"type": "reward_model", "reward_model": {"hyperparameters": {"n_epochs": 2}}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file, method=method)
    assert job.method is not None
    assert str(job.method.type) == "reward_model"
    shown = job.method.model_dump()["reward_model"]
    assert shown["hyperparameters"] == {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}


def test_curves_may_go_where_this_machine_has_a_place_for_them(http: httpx.Client, file: str) -> None:
    asked = [{"type": "tensorboard"}]
    body = {"model": "tiny", "training_file": file, "integrations": asked}
    reply = http.post("/v1/fine_tuning/jobs", json=body)
    assert (reply.status_code, reply.json()["integrations"]) == (200, asked)


def test_a_service_that_is_not_installed_is_refused_with_what_to_install(
    http: httpx.Client, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"type": "wandb", "wandb": {"project": "tuning", "tags": ["first"]}}]
    body = {"model": "tiny", "training_file": file, "integrations": asked}
    assert http.post("/v1/fine_tuning/jobs", json=body).json()["integrations"] == asked
    monkeypatch.setattr("tutee.serve.fine_tuning.request.find_spec", lambda name: None)
    error = http.post("/v1/fine_tuning/jobs", json=body).json()["error"]
    assert (error["param"], "pip install" in error["message"]) == ("integrations[0].type", True)


def test_lists_page_and_filter_by_metadata(server: Running, sdk: openai.OpenAI, file: str) -> None:
    jobs = [
        sdk.fine_tuning.jobs.create(model="tiny", training_file=file, metadata={"batch": "paging"}).id for _ in range(3)
    ]
    found = [job.id for job in sdk.fine_tuning.jobs.list(limit=1, extra_query={"metadata[batch]": "paging"})]
    assert found == jobs[::-1]
    bare = sdk.fine_tuning.jobs.create(model="tiny", training_file=file).id
    lists = server.sdk().fine_tuning.jobs.list  # not strict: some of them may be paused
    without = [job.id for job in lists(limit=1, extra_query={"metadata": "null"})]
    assert bare in without
    assert not set(jobs) & set(without)


def test_a_page_begins_after_a_job_of_ones_own(server: Running, sdk: openai.OpenAI, file: str) -> None:
    other = server.sdk(default_headers={"X-Tutee-Actor": "passer-by"})
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=file).id
    with pytest.raises(openai.BadRequestError) as refused:
        other.fine_tuning.jobs.list(after=job)
    assert refused.value.param == "after"


def test_events_and_checkpoints_and_failure_as_a_worker_leaves_them(
    server: Running, sdk: openai.OpenAI, file: str
) -> None:
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=file)
    jobs = server.services.store.jobs
    jobs.event(job.id, "info", "one")
    jobs.event(job.id, "warn", "two", {"step": 1, "train_loss": 0.5})
    jobs.checkpoint(job.id, 7, "jobs/x/step-7", {"train_loss": 0.5}, "ft:tiny:local::1:ckpt-step-7")
    jobs.fail(job.id, "invalid_training_file", "line 7: not JSON", "training_file")
    events = [event.message for event in sdk.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert events.index("two") < events.index("one")
    checkpoint = next(iter(sdk.fine_tuning.jobs.checkpoints.list(job.id)))
    assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (7, 0.5)
    failed = sdk.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert "line 7" in failed.error.message


MISSING = "missing_required_parameter"
BAD: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": None}, 400, "model", "missing_required_parameter"),
    ({"model": "gpt-9"}, 404, "model", "model_not_found"),
    ({"training_file": None}, 400, "training_file", "missing_required_parameter"),
    ({"training_file": "file-none"}, 404, "training_file", "file_not_found"),
    ({"validation_file": "file-none"}, 404, "validation_file", "file_not_found"),
    ({"suffix": "x" * 65}, 400, "suffix", "string_above_max_length"),
    ({"seed": -1}, 400, "seed", "integer_below_min_value"),
    ({"metadata": []}, 400, "metadata", "invalid_type"),
    ({"suffix": "a:b"}, 400, "suffix", "invalid_value"),
    ({"suffix": ""}, 400, "suffix", "string_below_min_length"),
    ({"integrations": [{"type": "wandb"}]}, 400, "integrations[0].wandb", "missing_required_parameter"),
    (
        {"integrations": [{"type": "wandb", "wandb": {"project": 3}}]},
        400,
        "integrations[0].wandb.project",
        "invalid_type",
    ),
    ({"integrations": [{"type": "neptune"}]}, 400, "integrations[0].type", "unsupported_value"),
    ({"integrations": ["wandb"]}, 400, "integrations[0]", "invalid_type"),
    ({"method": "dpo"}, 400, "method", "invalid_type"),
    ({"method": {}}, 400, "method.type", "missing_required_parameter"),
    ({"method": {"type": "alchemy"}}, 400, "method.type", "invalid_value"),
    ({"method": {"type": "reinforcement"}}, 400, "method.reinforcement.grader", "missing_required_parameter"),
    ({"method": {"type": "dpo"}, "hyperparameters": {"n_epochs": 2}}, 400, "hyperparameters", "invalid_value"),
    ({"method": {"type": "dpo", "supervised": {}}}, 400, "method", "invalid_value"),
    ({"hyperparameters": {"n_epochs": 51}}, 400, "hyperparameters.n_epochs", "integer_above_max_value"),
    ({"hyperparameters": {"beta": 1}}, 400, "hyperparameters.beta", "unknown_parameter"),
]
for name, value, code in (
    ("beta", 2.1, "decimal_above_max_value"),
    ("beta", 0, "decimal_below_min_value"),
    ("beta", -1, "decimal_below_min_value"),
    ("n_epochs", 51, "integer_above_max_value"),
    ("n_epochs", "many", "invalid_type"),
    ("batch_size", 0, "integer_below_min_value"),
    ("batch_size", 257, "integer_above_max_value"),
    ("learning_rate_multiplier", 0, "decimal_below_min_value"),
    ("warmup", 1, "unknown_parameter"),
):
    dpo = {"type": "dpo", "dpo": {"hyperparameters": {name: value}}}
    BAD.append(({"method": dpo}, 400, f"method.dpo.hyperparameters.{name}", code))


for given, status, param, code in (
    ({"grader": {"type": "string_check"}}, 400, "grader.name", "missing_required_parameter"),
    ({"grader": GRADER | {"reference": "{{ question.x }}"}}, 400, "grader.reference", "invalid_variable_error"),
    ({"grader": {"type": "label_model"}}, 400, "grader.type", "invalid_value"),
    (
        {"grader": {"type": "score_model", "name": "a", "model": "gpt-9", "input": [{"role": "user", "content": "b"}]}},
        404,
        "grader",
        "model_not_found",
    ),
    ({"hyperparameters": {"reasoning_effort": "high"}}, 400, "hyperparameters.reasoning_effort", "unsupported_value"),
    ({"hyperparameters": {"reasoning_effort": "most"}}, 400, "hyperparameters.reasoning_effort", "invalid_value"),
    ({"hyperparameters": {"compute_multiplier": 11}}, 400, "hyperparameters.compute_multiplier",
     "decimal_above_max_value"),
    ({"hyperparameters": {"compute_multiplier": 0}}, 400, "hyperparameters.compute_multiplier",
     "decimal_below_min_value"),
    ({"hyperparameters": {"eval_interval": 0}}, 400, "hyperparameters.eval_interval", "integer_below_min_value"),
    ({"hyperparameters": {"beta": 0.1}}, 400, "hyperparameters.beta", "unknown_parameter"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema", "missing_required_parameter"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "strin"}}}}, 400,
     "response_format.json_schema.schema", "invalid_json_schema"),
    ({"reward": 1}, 400, "reward", "unknown_parameter"),
):  # fmt: skip
    reinforcement = {"type": "reinforcement", "reinforcement": {"grader": GRADER} | given}
    BAD.append(({"method": reinforcement}, status, f"method.reinforcement.{param}", code))


@pytest.mark.parametrize(("changes", "status", "param", "code"), BAD)
def test_a_bad_field_is_named(
    http: httpx.Client, file: str, changes: dict[str, Any], status: int, param: str, code: str
) -> None:
    reply = http.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file} | changes)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code)


def test_a_reward_model_is_asked_by_graders_and_not_in_a_chat(server: Running) -> None:
    id = add_candidate(server, "judge", verdict=None)
    server.services.store.versions.set_card(id, {"kind": "reward_model"})
    client = server.sdk()
    assert "judge" in {model.id for model in client.models.list()}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="judge", messages=[{"role": "user", "content": "a"}])
    assert (caught.value.param, caught.value.code) == ("model", "not_a_chat_model")
    server.services.store.versions.set_state(id, "revoked")


def test_a_file_for_something_else_is_refused_and_one_in_use_stays(sdk: openai.OpenAI, file: str) -> None:
    other = sdk.files.create(file=("x", b"x"), purpose="vision").id
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.fine_tuning.jobs.create(model="tiny", training_file=other)
    assert caught.value.code == "invalid_purpose"
    sdk.fine_tuning.jobs.create(model="tiny", training_file=file)
    with pytest.raises(openai.BadRequestError) as in_use:
        sdk.files.delete(file)
    assert in_use.value.code == "file_in_use"


def test_somebody_elses_file_does_not_exist(server: Running, file: str) -> None:
    stranger = server.sdk(default_headers={"X-Tutee-Actor": "stranger"})
    with pytest.raises(openai.NotFoundError) as caught:
        stranger.fine_tuning.jobs.create(model="tiny", training_file=file)
    assert caught.value.code == "file_not_found"
