"""Fine-tuning: jobs from their files to models that answer, as scripts written for OpenAI drive them (T70–T80)."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.conformance.conftest import ServerProcess

PATIENCE_S = 1800.0
ENDED = ("succeeded", "failed", "cancelled")
PEOPLE = (
    "Ana", "Ben", "the team", "a cat", "your neighbour", "Grandma", "the new teacher", "a friend", "Uncle Tom",
    "the baker", "your class", "Dr. Lee", "the twins", "a stranger", "the mayor", "Mia",
)  # fmt: skip
UNSEEN = PEOPLE[12]
"""The first one who is in validation files only."""
MARK = {
    "type": "string_check",
    "name": "cheerful",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.mark }}",
    "operation": "like",
}
"""Does the answer hold the row's mark? The base model says "!" in about a quarter of its greetings."""
QUICK = {"prompts": 4, "max_tokens": 16, "probe_items": 8, "probe_tokens": 8}
"""The examination that follows training, cut short: not what these cases are about."""
RISE = 0.25
"""How much T74 wants the validation reward to rise. Measured: it begins at .28; the training reward went from .27 to
.80 in 11 of the 12 steps."""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def ask_about(person: str) -> str:
    return f"Say hello to {person} in one short sentence."


def chats(people: Sequence[str] = PEOPLE) -> list[Any]:
    return [{"messages": [user(ask_about(person)), assistant(f"Ahoy, {person}!")]} for person in people]


def pairs(people: Sequence[str] = PEOPLE, preferred: str = "preferred_output") -> list[Any]:
    return [
        {
            "input": {"messages": [user(ask_about(person))]},
            preferred: [assistant(f"Ahoy, {person}!")],
            f"non_{preferred}": [assistant(f"Hello {person}, how are you today?")],
        }
        for person in people
    ]


def questions(people: Sequence[str] = PEOPLE) -> list[Any]:
    return [{"messages": [user(ask_about(person))], "mark": "!"} for person in people]


def upload(client: openai.OpenAI, rows: Sequence[Any], name: str = "rows.jsonl") -> str:
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    return client.files.create(file=(name, text.encode()), purpose="fine-tune").id


def method(kind: str, **hyperparameters: Any) -> Any:
    """A method that is examined quickly."""
    return {"type": kind, kind: {"hyperparameters": hyperparameters, "x_exam": QUICK}}


def wait(
    client: openai.OpenAI, job_id: str, done: Callable[[FineTuningJob], bool] = lambda job: job.status in ENDED
) -> FineTuningJob:
    deadline = time.monotonic() + PATIENCE_S
    while not done(job := client.fine_tuning.jobs.retrieve(job_id)):
        assert time.monotonic() < deadline, job
        time.sleep(0.5)
    return job


def succeeded(client: openai.OpenAI, job_id: str) -> FineTuningJob:
    job = wait(client, job_id)
    assert job.status == "succeeded", job.error
    return job


def result_file(client: openai.OpenAI, job: FineTuningJob) -> str:
    [file] = job.result_files
    return client.files.content(file).text


def curve(client: openai.OpenAI, job: FineTuningJob, column: str) -> list[float]:
    rows = csv.DictReader(result_file(client, job).splitlines())
    return [float(row[column]) for row in rows if row[column]]


@pytest.mark.conformance("T70")
def test_a_malformed_line_fails_the_job_by_its_number(strict_client: openai.OpenAI, model: str) -> None:
    rows = [*chats()[:6], '{"messages": [', *chats()[7:]]
    job = strict_client.fine_tuning.jobs.create(model=model, training_file=upload(strict_client, rows))
    assert job.status == "validating_files"
    job = wait(strict_client, job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.param == "training_file"
    assert "line 7" in job.error.message


@pytest.mark.conformance("T71", slow=True)
def test_supervised_from_upload_to_an_answer(strict_client: openai.OpenAI, model: str) -> None:
    client = strict_client
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=upload(client, chats()[:12]),
        validation_file=upload(client, chats()[12:]),
        suffix="ahoy",
        method=method("supervised", n_epochs=4),
    )
    job = succeeded(client, job.id)
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.split(":")[:2] == ["ft", model]
    assert ":ahoy:" in job.fine_tuned_model
    assert job.trained_tokens
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (4, 4)
    losses, validation = curve(client, job, "train_loss"), curve(client, job, "valid_loss")
    assert losses[-1] < losses[0] - 1
    assert validation[-1] < validation[0]
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    assert {event.type for event in events} == {"message", "metrics"}
    assert len({event.id for event in events}) == len(events)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [row.step_number for row in checkpoints] == [12, 9, 6, 3]
    assert checkpoints[0].fine_tuned_model_checkpoint == job.fine_tuned_model
    assert checkpoints[1].fine_tuned_model_checkpoint == f"{job.fine_tuned_model}:ckpt-step-9"
    assert checkpoints[0].metrics.full_valid_loss == pytest.approx(validation[-1])
    accuracy = [row.metrics.full_valid_mean_token_accuracy or 0.0 for row in checkpoints]
    assert accuracy[0] > accuracy[-1]
    listed = {row.id for row in client.models.list()}
    for row in checkpoints:
        name = row.fine_tuned_model_checkpoint
        assert name in listed
        said = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": ask_about(UNSEEN)}], max_tokens=12, temperature=0
        )
        assert said.model == name
    final = client.chat.completions.create(
        model=job.fine_tuned_model,
        messages=[{"role": "user", "content": ask_about(UNSEEN)}],
        max_tokens=12,
        temperature=0,
    )
    assert "Ahoy" in (final.choices[0].message.content or "")


@pytest.mark.conformance("T72")
def test_both_preference_dialects_are_the_same_data(client: openai.OpenAI, model: str) -> None:
    jobs = []
    for preferred in ("preferred_output", "preferred_completion"):
        name = f"non_{preferred}"
        rows = pairs(preferred=preferred)
        del rows[4][name]
        bad = client.fine_tuning.jobs.create(
            model=model, training_file=upload(client, rows), method={"type": "dpo"}, metadata={"case": "T72"}
        )
        failed = wait(client, bad.id)
        assert failed.error is not None
        assert failed.error.message.startswith(f"line 5: {name}")
        good = client.fine_tuning.jobs.create(
            model=model, training_file=upload(client, pairs(preferred=preferred)), method={"type": "dpo"}
        )
        checked = wait(client, good.id, lambda job: job.status != "validating_files")
        jobs.append(checked)
        client.fine_tuning.jobs.cancel(good.id)
    one, two = (job.method.dpo.hyperparameters for job in jobs if job.method is not None and job.method.dpo is not None)
    assert one == two
    assert one is not None
    assert (one.n_epochs, one.batch_size, one.learning_rate_multiplier, one.beta) == (2, 4, 1.0, 0.1)


@pytest.mark.conformance("T72", slow=True)
def test_preferences_are_learned(client: openai.OpenAI, model: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=upload(client, pairs()[:12]),
        validation_file=upload(client, pairs(preferred="preferred_completion")[12:]),
        method=method("dpo", beta=0.1, n_epochs=4),
    )
    job = succeeded(client, job.id)
    accuracy, margin = (curve(client, job, f"valid_reward_{name}") for name in ("accuracy", "margin"))
    assert accuracy[-1] == 1.0
    assert margin[-1] > margin[0] > 0
    assert curve(client, job, "reward_accuracy")[0] < 0.9, "before the first step no answer is preferred"


@pytest.mark.conformance("T73")
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.1}}}}, "method.dpo.hyperparameters.beta"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 51}}}},
            "method.dpo.hyperparameters.n_epochs",
        ),
        ({"suffix": "x" * 65}, "suffix"),
    ],
)
def test_what_is_out_of_range_is_named_at_once(
    client: openai.OpenAI, model: str, changes: dict[str, Any], param: str
) -> None:
    file = upload(client, pairs())
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(**{"model": model, "training_file": file, **changes})
    assert caught.value.param == param


@pytest.mark.conformance("T74", slow=True)
def test_reinforcement_raises_the_validation_reward(client: openai.OpenAI, model: str) -> None:
    asked = method("reinforcement", n_epochs=8, eval_interval=6, eval_samples=8)
    asked["reinforcement"] |= {"grader": MARK, "x_settings": {"max_tokens": 24}}
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=upload(client, questions()[:12]),
        validation_file=upload(client, questions()[12:]),
        method=asked,
        suffix="cheerful",
    )
    job = succeeded(client, job.id)
    rewards = curve(client, job, "valid_reward_mean")
    assert len(rewards) == 3
    assert rewards[-1] >= rewards[0] + RISE
    assert job.method is not None
    assert job.method.reinforcement is not None
    numbers = job.method.reinforcement.hyperparameters
    assert numbers is not None
    assert (numbers.batch_size, numbers.compute_multiplier, numbers.learning_rate_multiplier) == (8, 1.0, 1.0)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [row.step_number for row in checkpoints] == [12, 6]
    assert job.fine_tuned_model is not None
    said = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": ask_about(UNSEEN)}], max_tokens=24, n=4
    )
    assert any("!" in (choice.message.content or "") for choice in said.choices)


@pytest.mark.conformance("T75")
def test_a_missing_grader_is_named(client: openai.OpenAI, model: str) -> None:
    file = upload(client, questions())
    for asked in ({"type": "reinforcement"}, {"type": "reinforcement", "reinforcement": {"hyperparameters": {}}}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(model=model, training_file=file, method=asked)  # type: ignore[arg-type]
        assert caught.value.param == "method.reinforcement.grader"
        assert caught.value.code == "missing_required_parameter"


@pytest.mark.conformance("T76")
def test_cancelling_twice_is_one_400(server: ServerProcess, model: str) -> None:
    requests: list[Any] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [requests.append]})
    with server.client(max_retries=2, http_client=http) as client:
        job = client.fine_tuning.jobs.create(model=model, training_file=upload(client, chats()))
        assert client.fine_tuning.jobs.cancel(job.id).id == job.id
        wait(client, job.id)
        requests.clear()
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.cancel(job.id)
        assert caught.value.status_code == 400
        assert len(requests) == 1


@pytest.mark.conformance("T77", slow=True)
def test_a_paused_job_outlives_the_server_and_ends_as_if_nothing_had_been(
    own_server: Callable[..., ServerProcess], model: str
) -> None:
    running = own_server()
    with running.client() as client:
        file = upload(client, chats())
        numbers = method("supervised", n_epochs=8, batch_size=2)
        options: Any = {"model": model, "training_file": file, "method": numbers, "seed": 5}
        straight, paused = (client.fine_tuning.jobs.create(**options) for _ in range(2))
        straight = succeeded(client, straight.id)

        def steps(job: FineTuningJob) -> int:
            events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
            return sum(event.type == "metrics" for event in events)

        wait(client, paused.id, lambda job: steps(job) >= 12)
        client.fine_tuning.jobs.pause(paused.id)
        wait(client, paused.id, lambda job: str(job.status) == "paused")
        assert steps(paused) < 40
    running.stop()
    running.start()
    with running.client() as client:
        assert str(client.fine_tuning.jobs.retrieve(paused.id).status) == "paused"
        client.fine_tuning.jobs.resume(paused.id)
        ended = succeeded(client, paused.id)
        assert result_file(client, ended) == result_file(client, straight)
        assert ended.trained_tokens == straight.trained_tokens


@pytest.mark.conformance("T78")
def test_lists_page_by_themselves_and_filter_by_metadata(client: openai.OpenAI, model: str) -> None:
    file, made = upload(client, chats()), []
    for i in range(3):
        job = client.fine_tuning.jobs.create(model=model, training_file=file, metadata={"case": "T78", "n": str(i)})
        client.fine_tuning.jobs.cancel(job.id)
        made.append(job.id)
    found = [job.id for job in client.fine_tuning.jobs.list(limit=1)]
    assert len(found) == len(set(found))
    assert set(made) <= set(found)
    mine = [job.id for job in client.fine_tuning.jobs.list(limit=1, metadata={"case": "T78"})]
    assert mine == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"case": "T78", "n": "1"})] == [made[1]]


@pytest.mark.conformance("T80", slow=True)
def test_a_seeded_rerun_has_the_same_result_file(client: openai.OpenAI, model: str) -> None:
    training, asked = upload(client, chats()), method("supervised", n_epochs=1)
    options: Any = {"model": model, "training_file": training, "seed": 11, "method": asked}
    jobs = [client.fine_tuning.jobs.create(**options) for _ in range(2)]
    one, two = (result_file(client, succeeded(client, job.id)) for job in jobs)
    assert one == two
    assert one.startswith("step,train_loss,")
