"""Evals over HTTP: definitions, runs of every source, items, cancelling, a restart midway, the page, the gate."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import Running, add_candidate, serving
from tutee.serve.evals.runner import EvalRunner
from tutee.serve.own_requests import Stopping
from tutee.settings import Settings

SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
CONFIG = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True}
IS = {
    "type": "string_check",
    "name": "is",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.x }}",
    "operation": "eq",
}
LONG = {"type": "python", "name": "long", "source": "def grade(sample, item):\n    return len(sample['output_text'])\n"}
LOOK: Any = {
    "type": "function",
    "name": "look",
    "parameters": {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALLED = """def grade(sample, item):
    return sample['output_tools'][0]['function']['name'] == 'look'
"""
ASK = {"type": "template", "template": [{"role": "user", "content": "Say {{ item.x }}"}]}
ENDED = ("completed", "failed", "canceled")


def until(look: Callable[[], Any], seconds: float = 300.0) -> Any:
    """What `look` finds as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)
    return found


class Client:
    """The official client, strict, with the loose types that dicts need."""

    def __init__(self, sdk: openai.OpenAI) -> None:
        self.sdk = sdk

    def eval(self, *criteria: Any, config: Any = CONFIG, **more: Any) -> Any:
        testing: Any = list(criteria or [IS])
        return self.sdk.evals.create(data_source_config=config, testing_criteria=testing, **more)

    def run(self, eval_id: str, source: Any, **more: Any) -> Any:
        return self.sdk.evals.runs.create(eval_id, data_source=source, **more)

    def ended(self, run: Any) -> Any:
        def look() -> Any:
            now = self.sdk.evals.runs.retrieve(run.id, eval_id=run.eval_id)
            return now if now.status in ENDED else None

        return until(look)

    def items(self, run: Any, **more: Any) -> list[Any]:
        return list(self.sdk.evals.runs.output_items.list(run.id, eval_id=run.eval_id, **more))


@pytest.fixture
def client(sdk: openai.OpenAI) -> Client:
    return Client(sdk)


def inline(*rows: Any) -> dict[str, Any]:
    return {"type": "file_content", "content": list(rows)}


def brought(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"type": "jsonl", "source": inline(*({"item": {"x": x}, "sample": {"output_text": y}} for x, y in pairs))}


def asked(*texts: str, **more: Any) -> dict[str, Any]:
    sampling = {"max_completion_tokens": 4, "temperature": 0}
    rows = inline(*({"item": {"x": text}} for text in texts))
    base = {"type": "completions", "model": "tiny", "source": rows, "input_messages": ASK}
    return {**base, "sampling_params": sampling, **more}


def test_a_definition_can_be_listed_changed_and_deleted(client: Client, sdk: openai.OpenAI) -> None:
    made = client.eval(IS, LONG, name="first", metadata={"team": "a"})
    assert (made.object, made.name, made.metadata) == ("eval", "first", {"team": "a"})
    assert made.data_source_config.schema_["properties"]["item"] == SCHEMA
    assert [criterion.type for criterion in made.testing_criteria] == ["string_check", "python"]
    assert made.id in [row.id for row in sdk.evals.list(limit=1)]
    assert sdk.evals.update(made.id, name="second").name == "second"
    assert sdk.evals.list(order="desc", order_by="updated_at", limit=1).data[0].id == made.id
    assert sdk.evals.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.evals.retrieve(made.id)


def test_answers_that_came_with_the_data_are_counted(client: Client, sdk: openai.OpenAI) -> None:
    made = client.eval(IS, {**LONG, "pass_threshold": 2})
    run = client.ended(client.run(made.id, brought(("aa", "aa"), ("a", "a"), ("bb", "cc"), ("c", "")), name="r"))
    assert (run.status, run.error.message) == ("completed", "")
    counts = run.result_counts
    assert (counts.total, counts.passed, counts.failed, counts.errored) == (4, 1, 3, 0)
    results = {row.testing_criteria: (row.passed, row.failed) for row in run.per_testing_criteria_results}
    assert results == {"is": (2, 2), "long": (2, 2)}
    assert run.per_model_usage == []
    items = client.items(run, limit=2)
    assert [item.status for item in items] == ["pass", "fail", "fail", "fail"]
    assert [item.datasource_item_id for item in items] == [0, 1, 2, 3]
    assert [(r.name, r.score, r.passed) for r in items[0].results] == [("is", 1.0, True), ("long", 2.0, True)]
    assert [item.id for item in client.items(run, status="pass")] == [items[0].id]
    again = sdk.evals.runs.output_items.retrieve(items[3].id, eval_id=made.id, run_id=run.id)
    assert (again.datasource_item, again.sample.output[0].content) == ({"x": "c"}, "")


def test_a_model_is_asked_and_its_tokens_are_counted(client: Client) -> None:
    made = client.eval(IS, LONG)
    run = client.ended(client.run(made.id, asked("one", "two", "three")))
    assert (run.status, run.model, run.result_counts.total) == ("completed", "tiny", 3)
    usage = run.per_model_usage[0]
    assert (usage.run_model_name, usage.invocation_count, usage.completion_tokens) == ("tiny", 3, 12)
    first = client.items(run)[0]
    assert first.sample.input[0].content == "Say one"
    assert (first.sample.finish_reason, first.sample.max_completion_tokens, first.sample.temperature) == (
        "length",
        4,
        0,
    )
    assert first.sample.usage.completion_tokens == 4


def test_files_and_item_references(client: Client, server: Running) -> None:
    sdk = server.sdk()  # the strict client does not know its own purpose "evals"
    rows = [{"item": {"x": "a", "talk": [{"role": "user", "content": f"Hi {i}"}]}} for i in range(3)]
    text = "\n".join(json.dumps(row) for row in rows)
    file = sdk.files.create(file=("rows.jsonl", text.encode()), purpose="evals")
    reference = {"type": "item_reference", "item_reference": "item.talk"}
    source = asked("", source={"type": "file_id", "id": file.id}, input_messages=reference)
    run = client.ended(client.run(client.eval().id, source))
    assert [item.sample.input[0].content for item in client.items(run)] == ["Hi 0", "Hi 1", "Hi 2"]
    bad = sdk.files.create(file=("bad.jsonl", b'{"item": {"x": "a"}}\n{"x": 1}\n'), purpose="evals")
    failed = client.ended(client.run(client.eval().id, asked("", source={"type": "file_id", "id": bad.id})))
    assert failed.status == "failed"
    assert failed.error.message.startswith("line 2:")


def test_stored_completions_as_they_are_and_asked_again(client: Client, sdk: openai.OpenAI) -> None:
    for i in range(3):
        sdk.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"Question {i}"}],
            max_tokens=3,
            store=True,
            metadata={"use": "eval-source", "n": str(i)},
        )
    stored = {"type": "stored_completions", "metadata": {"use": "eval-source"}, "limit": 2}
    made = client.eval(LONG, config={"type": "stored_completions", "metadata": {"use": "eval-source"}})
    kept = client.ended(client.run(made.id, {"type": "completions", "source": stored}))
    assert (kept.status, kept.result_counts.total, kept.per_model_usage) == ("completed", 2, [])
    items = client.items(kept)
    assert [item.datasource_item["metadata"]["n"] for item in items] == ["0", "1"]
    assert items[0].sample.output[0].content == items[0].datasource_item["output_text"]
    again = client.ended(client.run(made.id, asked("", source=stored, input_messages=None)))
    assert [item.sample.input[0].content for item in client.items(again)] == ["Question 0", "Question 1"]
    assert again.per_model_usage[0].invocation_count == 2


def keep_responses(sdk: openai.OpenAI, use: str) -> list[Any]:
    """Three responses: a plain one, one that continues it, one that had to call a function."""
    fields: dict[str, Any] = {"model": "tiny", "max_output_tokens": 16, "metadata": {"use": use}}
    first = sdk.responses.create(**fields, input="One", instructions="Be Brief.", temperature=0, user="ada")
    second = sdk.responses.create(**fields, input="Two", previous_response_id=first.id, top_p=0.5, user="grace")
    third = sdk.responses.create(
        **fields | {"max_output_tokens": 200}, input="Three", tools=[LOOK], tool_choice="required", temperature=0.5
    )
    return [first, second, third]


def of_responses(use: str, **more: Any) -> dict[str, Any]:
    source = {"type": "responses", "metadata": {"use": use}, **more}
    return {"type": "responses", "source": source}


def test_stored_responses_as_they_are_and_asked_again(client: Client, sdk: openai.OpenAI) -> None:
    kept = keep_responses(sdk, "asked-again")
    made = client.eval(LONG, config={"type": "logs"})
    run = client.ended(client.run(made.id, of_responses("asked-again")))
    assert (run.status, run.per_model_usage) == ("completed", [])
    items = client.items(run)
    assert [item.datasource_item["id"] for item in items] == [each.id for each in kept]
    assert [item.datasource_item["output_text"] for item in items] == [each.output_text for each in kept]
    assert items[0].sample.output[0].content == kept[0].output_text
    assert items[0].sample.finish_reason == "length"
    assert items[2].datasource_item["output_tools"][0]["function"]["name"] == "look"
    again = client.ended(client.run(made.id, {**of_responses("asked-again", users=["grace"]), "model": "tiny"}))
    (item,) = client.items(again)
    assert item.datasource_item["instructions"] is None
    assert [(m.role, m.content) for m in item.sample.input] == [
        ("user", "One"),
        ("assistant", kept[0].output_text),
        ("user", "Two"),
    ]  # without the instructions, which were the first one's own
    assert again.per_model_usage[0].invocation_count == 1
    sdk.responses.delete(kept[0].id)
    lost = client.ended(client.run(made.id, {**of_responses("asked-again", users=["grace"]), "model": "tiny"}))
    (item,) = client.items(lost)
    assert (item.status, item.sample.error.code) == ("error", "invalid_variable_error")


def test_stored_responses_are_found_by_what_was_asked(client: Client, sdk: openai.OpenAI) -> None:
    kept = [each.id for each in keep_responses(sdk, "filtered")]
    made = client.eval(LONG, config={"type": "logs"})
    filters: list[tuple[dict[str, Any], list[int]]] = [
        ({"instructions_search": "brief"}, [0]),
        ({"has_tool_calls": True}, [2]),
        ({"has_tool_calls": False, "limit": 1}, [0]),
        ({"temperature": 0}, [0]),
        ({"top_p": 0.5}, [1]),
        ({"users": ["ada", "grace"]}, [0, 1]),
        ({"tools": ["look"]}, [2]),
        ({"tools": ["look", "leap"]}, []),
        ({"model": "nobody"}, []),
        ({"model": "tiny", "allow_parallel_tool_calls": True}, [0, 1, 2]),
        ({"reasoning_effort": "low"}, []),
        ({"created_after": 4102444800}, []),
        ({"created_before": 1}, []),
    ]
    runs = [client.run(made.id, of_responses("filtered", **asked)) for asked, _ in filters]
    for run, (asked, wanted) in zip(runs, filters, strict=True):
        run = client.ended(run)
        assert run.status == "completed", run.error
        found = [item.datasource_item["id"] for item in client.items(run)]
        assert found == [kept[i] for i in wanted], asked


def test_a_run_of_responses_takes_templates_references_a_form_and_tools(client: Client) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
    found = {"type": "function_call_output", "call_id": "call_1", "output": "It is there."}
    talk = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, call, found]
    rows = inline({"item": {"x": "a", "talk": talk}}, {"item": {"x": "b", "talk": [call]}})
    reference = {"type": "item_reference", "item_reference": "item.talk"}
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    number["additionalProperties"] = False
    form = {"type": "json_schema", "name": "number", "schema": number, "strict": True}
    sampling = {"max_completion_tokens": 200, "temperature": 0, "text": {"format": form}}
    base = {"type": "responses", "model": "tiny", "source": rows, "sampling_params": sampling}
    run = client.ended(client.run(client.eval().id, {**base, "input_messages": reference}))
    good, bad = client.items(run)
    assert [m.role for m in good.sample.input] == ["user", "assistant", "tool"]
    assert set(json.loads(good.sample.output[0].content)) == {"n"} or good.sample.finish_reason == "length"
    assert (bad.status, "No tool output" in bad.sample.error.message) == ("error", True)
    forced = {"tools": [LOOK], "tool_choice": {"type": "function", "name": "look"}, "max_completion_tokens": 200}
    python = {"type": "python", "name": "called", "source": CALLED}
    source = {**base, "input_messages": ASK, "sampling_params": {**forced, "temperature": 0}}
    called = client.ended(client.run(client.eval(python).id, source))
    assert (called.result_counts.passed, called.result_counts.total) == (2, 2)
    assert client.items(called)[0].sample.input[0].content == "Say a"


def test_a_judge_is_asked_as_well_and_counted_apart(client: Client) -> None:
    judge: dict[str, Any] = {
        "type": "label_model",
        "name": "mood",
        "model": "tiny",
        "labels": ["up", "down"],
        "passing_labels": ["up"],
    }
    judge |= {"input": [{"role": "developer", "content": "Judge {{ sample.output_text }}"}]}
    run = client.ended(client.run(client.eval(judge).id, asked("one", "two")))
    counts = run.result_counts
    assert (run.status, counts.errored, counts.passed + counts.failed) == ("completed", 0, 2), client.items(run)
    assert run.per_model_usage[0].invocation_count == 4
    assert client.items(run)[0].results[0].sample["output"] in ("up", "down")


def test_rows_that_cannot_be_asked_are_errors_and_the_rest_goes_on(client: Client) -> None:
    made = client.eval(IS, config={"type": "custom", "item_schema": {"type": "object"}})
    run = client.ended(client.run(made.id, asked("one", source=inline({"item": {"x": "a"}}, {"item": {"y": "b"}}))))
    assert (run.status, run.result_counts.errored, run.result_counts.total) == ("completed", 1, 2)
    error = client.items(run, status="error")[0].sample.error
    assert (error.code, "x" in error.message) == ("invalid_variable_error", True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "data_source_config"),
        ({"data_source_config": {"type": "x"}}, "data_source_config.type"),
        ({"data_source_config": {"type": "custom"}}, "data_source_config.item_schema"),
        ({"data_source_config": {"type": "custom", "item_schema": {"type": "x"}}}, "data_source_config.item_schema"),
        ({"data_source_config": CONFIG}, "testing_criteria"),
        (
            {"data_source_config": CONFIG, "testing_criteria": [{**IS, "operation": "x"}]},
            "testing_criteria[0].operation",
        ),
        ({"data_source_config": CONFIG, "testing_criteria": [IS], "name": 3}, "name"),
        ({"data_source_config": CONFIG, "testing_criteria": [IS], "metadata": {"a": 1}}, "metadata.a"),
    ],
)
def test_a_bad_definition_is_a_400_that_names_the_field(http: httpx.Client, body: Any, param: str) -> None:
    reply = http.post("/v1/evals", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("source", "status", "param"),
    [
        (None, 400, "data_source"),
        ({"type": "x"}, 400, "data_source.type"),
        (asked("a", model="nobody"), 404, "model"),
        (asked("a", sampling_params={"temperature": 9}), 400, "data_source.sampling_params.temperature"),
        (asked("a", sampling_params={"max_tokenz": 9}), 400, "data_source.sampling_params.max_tokenz"),
        (asked("a", source={"type": "file_id", "id": "file-no"}), 404, "data_source.source.id"),
        (asked("a", source=inline({"item": {"x": 1}})), 400, "data_source.source.content[0].item"),
        ({"type": "completions", "source": {"type": "responses"}}, 400, "data_source.source.type"),
        (of_responses("x", users="ada"), 400, "data_source.source.users"),
        (of_responses("x", search="ada"), 400, "data_source.source.search"),
        (of_responses("x", created_after="now"), 400, "data_source.source.created_after"),
        (
            {"type": "completions", "source": {"type": "stored_completions", "limit": 0}},
            400,
            "data_source.source.limit",
        ),
        (asked("a", sampling_params={"stream": True}), 400, "data_source.sampling_params.stream"),
        (asked("a", sampling_params={"tools": [{}]}), 400, "data_source.sampling_params.tools[0].type"),
        (
            asked("a", type="responses", sampling_params={"text": {"format": {"type": "x"}}}),
            400,
            "data_source.sampling_params.text.format.type",
        ),
        (
            asked("a", type="responses", sampling_params={"tools": [{"type": "web_search"}]}),
            400,
            "data_source.sampling_params.tools[0].type",
        ),
    ],
)
def test_a_bad_run_is_refused_before_it_is_queued(
    client: Client, http: httpx.Client, source: Any, status: int, param: str
) -> None:
    made = client.eval()
    reply = http.post(f"/v1/evals/{made.id}/runs", json={"data_source": source})
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
    assert client.sdk.evals.runs.list(made.id).data == []


def test_a_run_can_be_cancelled_once_and_deleted(client: Client, sdk: openai.OpenAI) -> None:
    slow = asked(*(f"row {i}" for i in range(400)), sampling_params={"max_completion_tokens": 200})
    run = client.run(client.eval().id, slow)
    until(lambda: sdk.evals.runs.output_items.list(run.id, eval_id=run.eval_id, limit=1).data)
    sdk.evals.runs.cancel(run.id, eval_id=run.eval_id)
    run = client.ended(run)
    assert (run.status, 0 < run.result_counts.total < 400) == ("canceled", True)
    with pytest.raises(openai.BadRequestError, match="canceled"):
        sdk.evals.runs.cancel(run.id, eval_id=run.eval_id)
    assert [row.id for row in sdk.evals.runs.list(run.eval_id, status="canceled")] == [run.id]
    assert sdk.evals.runs.delete(run.id, eval_id=run.eval_id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.evals.runs.retrieve(run.id, eval_id=run.eval_id)


def test_a_run_survives_a_restart_and_asks_no_row_twice(make_home: Callable[..., Settings]) -> None:
    settings, counted, ask = make_home(), itertools.count(), EvalRunner._ask

    def lost_after_five(self: EvalRunner, *arguments: Any) -> Any:
        answer = ask(self, *arguments)
        if next(counted) >= 5:
            self._closing.wait()  # the server ends before this is saved
            raise Stopping
        return answer

    with pytest.MonkeyPatch.context() as patch, serving(settings) as running:
        patch.setattr(EvalRunner, "_ask", lost_after_five)
        client = Client(running.strict())
        run = client.run(client.eval().id, asked(*(f"row {i}" for i in range(60))))
        until(lambda: len(client.items(run)) == 5)
        before = {item.id for item in client.items(run)}
    with serving(settings) as running:
        client = Client(running.strict())
        run = client.ended(client.sdk.evals.runs.retrieve(run.id, eval_id=run.eval_id))
        items = client.items(run)
        assert (run.status, run.result_counts.total) == ("completed", 60)
        assert [item.datasource_item_id for item in items] == list(range(60))
        assert before <= {item.id for item in items}
        assert run.per_model_usage[0].invocation_count == 60


def test_the_report_escapes_what_people_and_models_wrote(client: Client, http: httpx.Client) -> None:
    nasty = "<script>alert(1)</script>"
    run = client.run(client.eval(IS, name=nasty).id, brought((nasty, nasty), ("b", "c")), name="run & co")
    run = client.ended(run)
    assert run.report_url.startswith(str(http.base_url).rstrip("/"))
    page = http.get(run.report_url)
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert nasty not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "1 passed" in page.text
    assert http.get("/v1/evals/report.css").headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("page", ["graders", "evals", "responses"])
def test_the_examples_of_the_documentation_run(server: Running, page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    names: dict[str, Any] = {}  # a later example goes on from an earlier one
    for example in examples:
        exec(example.replace("http://127.0.0.1:8000", server.url), names)


@pytest.fixture
def own(make_home: Callable[..., Settings]) -> Iterator[Running]:
    with serving(make_home()) as running:
        yield running


def test_the_gate_asks_an_eval_of_every_candidate(own: Running) -> None:
    client = Client(own.strict())
    live = own.sdk().chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "Say hello"}], max_tokens=4, temperature=0
    )
    said = live.choices[0].message.content
    rows = inline(*[{"item": {"x": "hello", "want": said}}] * 6)
    made = client.eval({**IS, "reference": "{{ item.want }}"}, name="as before")
    source = {key: value for key, value in asked("", source=rows).items() if key != "model"}
    with own.http() as http:
        refused = http.put(f"/v1/tutee/gate/evals/{made.id}", json={"data_source": {**source, "model": "tiny"}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "data_source.model")
        named = http.put(f"/v1/tutee/gate/evals/{made.id}", json={"data_source": source, "margin": 0.1})
        assert (named.status_code, named.json()["role"]) == (200, "block")
        add_candidate(own, "other", scale=2.0)

        def judged() -> Any:
            checks = http.post("/v1/tutee/versions/other/gate").json()["checks"]
            found = next(each for each in checks if each["name"] == "eval: as before")
            return found if found["value"] is not None else None

        check = until(judged)
        assert check["verdict"] == http.get("/v1/tutee/versions/other").json()["gate"]["verdict"] == "fail"
        assert "passes 0 of 6 rows, the live version 6 of 6" in check["reason"]
        promoted = http.post("/v1/tutee/versions/other/promote", json={})
        assert promoted.json()["error"]["code"] == "gate_not_passed"
        assert [row["id"] for row in http.get("/v1/tutee/gate/evals").json()["data"]] == [made.id]
        assert http.delete(f"/v1/tutee/gate/evals/{made.id}").json()["deleted"]
        after = http.post("/v1/tutee/versions/other/gate").json()
        assert not [each for each in after["checks"] if each["name"].startswith("eval:")]
