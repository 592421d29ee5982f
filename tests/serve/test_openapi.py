"""The OpenAPI document against the routes that are really served, and against what they really answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest

from tests.serve.belongings import Belongings, belongings_of
from tests.serve.conftest import Running, add_candidate
from tutee.serve import app
from tutee.serve.access.auth import RULE
from tutee.serve.api_schemas import BODIES, CALL, FORMS, GRADER
from tutee.serve.object_schemas import OBJECTS
from tutee.serve.reply_schemas import REPLIES, STATUSES, STREAMS


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    reply = httpx.get(f"{server.url}/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    return dict(reply.json())


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_is_in_it_and_nothing_else(document: dict[str, Any]) -> None:
    served = {
        (method, route.path.replace(":path}", "}"))
        for route in app.routes()
        for method in route.methods
        if not route.path.endswith(":page}")
    }
    assert set(operations(document)) == served
    assert served >= set(BODIES) | set(FORMS) | set(REPLIES) | set(STREAMS) | set(STATUSES)


def test_every_body_is_a_valid_schema(document: dict[str, Any]) -> None:
    for (method, path), operation in operations(document).items():
        if method in ("POST", "PUT", "PATCH"):
            (content,) = operation["requestBody"]["content"].values()
            jsonschema_rs.validator_for(content["schema"])
            assert content["schema"]["type"] == "object", path


def test_operations_have_one_id_each_and_say_whether_a_key_is_needed(document: dict[str, Any]) -> None:
    found = operations(document)
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    for operation in found.values():
        assert (operation["security"] == []) == (operation[RULE] == "public")


def test_a_request_as_described_is_taken(document: dict[str, Any], http: httpx.Client) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stop": None, "n": 1}
    schema = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    jsonschema_rs.validate(schema, body)
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    body["temperature"] = 3
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, body)
    assert http.post("/v1/chat/completions", json=body).status_code == 400


OPEN = (GRADER, CALL, OBJECTS["ResponseEvent"])
"""Objects that may hold more than their schemas say."""


def closed(schema: Any) -> Any:
    """The same schema, but a field that it does not describe is wrong."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict) or schema in OPEN:
        return schema
    shut = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and schema.get("required"):
        shut["additionalProperties"] = False
    return shut


class Watch:
    """Holds every reply that passes by to the document, and remembers which routes were seen."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.seen: set[tuple[str, str]] = set()
        self._components = closed(document["components"])
        self._document = document
        self._routes = [
            (re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path))), path)
            for path in sorted(document["paths"], key=lambda path: path.count("{"))
        ]
        self.validator = cache(self._validator)

    def _validator(self, path: str, method: str, status: int, kind: str) -> Any:
        responses = self._document["paths"][path][method]["responses"]
        found = responses.get(str(status)) or responses.get(f"{status // 100}XX")
        assert found is not None, f"{method} {path} is not said to answer {status}"
        if kind not in found.get("content", {}):
            return None
        schema = closed(found["content"][kind]["schema"])
        return jsonschema_rs.validator_for({**schema, "components": self._components})

    def __call__(self, reply: Any) -> None:
        reply.read()
        path = next(path for pattern, path in self._routes if pattern.fullmatch(reply.url.path))
        method, kind = reply.request.method, reply.headers["content-type"].partition(";")[0]
        validator = self.validator(path, method.lower(), reply.status_code, kind)
        if validator is None:
            return
        if reply.status_code < 400:
            self.seen.add((method, path))
        bodies = [reply.json()] if kind == "application/json" else events(reply.text)
        for body in bodies:
            errors = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(body)]
            assert not errors, f"{method} {path}: {errors}"


def events(text: str) -> list[Any]:
    lines = (line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.fixture(scope="module")
def watch(document: dict[str, Any]) -> Watch:
    return Watch(document)


@pytest.fixture(scope="module")
def watched(server: Running, watch: Watch) -> Iterator[httpx.Client]:
    with server.http("described", event_hooks={"response": [watch]}) as http:
        yield http


@pytest.fixture(scope="module")
def things(server: Running, watch: Watch, watched: httpx.Client) -> Iterator[Belongings]:
    """One of each thing; the requests that make them are watched too."""
    with openai.DefaultHttpxClient(event_hooks={"response": [watch]}) as client:
        yield belongings_of(watched, server.sdk(http_client=client, default_headers={"X-Tutee-Actor": "described"}))


LOOK = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
ASKED = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "temperature": 0}
CALLING = {"tools": [{"type": "function", "function": {"name": "look", "parameters": LOOK}}], "tool_choice": "required"}
SAID = {"model": "chat", "input": "Hi", "max_output_tokens": 16}
STRING = {"type": "string_check", "name": "is", "input": "{{sample.output_text}}", "reference": "a", "operation": "eq"}
GRADED = {"grader": STRING, "model_sample": "a", "item": {}}
MORE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {**ASKED, "n": 2, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {**ASKED, "stream": True, "logprobs": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {**ASKED, **CALLING}),
    ("/v1/chat/completions", {**ASKED, **CALLING, "stream": True}),
    ("/v1/completions", {"model": "chat", "prompt": ["Hi", "Ho"], "max_tokens": 3, "logprobs": 2, "echo": True}),
    ("/v1/completions", {"model": "chat", "prompt": "Hi", "max_tokens": 3, "stream": True}),
    ("/v1/embeddings", {"model": "chat", "input": ["Hi", "Ho"]}),
    ("/v1/embeddings", {"model": "chat", "input": "Hi", "encoding_format": "base64"}),
    ("/v1/moderations", {"input": ["I will kill you", "Hello"]}),
    ("/v1/responses", {**SAID, "background": True, "stream": True, "top_logprobs": 1}),
    ("/v1/responses", {**SAID, "tools": [{"type": "function", "name": "look", "parameters": LOOK}]}),
    ("/v1/responses/input_tokens", SAID),
    ("/v1/fine_tuning/alpha/graders/run", GRADED),
    ("/v1/fine_tuning/alpha/graders/validate", GRADED),
)


def walk(server: Running, http: httpx.Client) -> None:
    """What only works in an order, or while something runs."""

    def call(path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        reply = http.post(f"/v1{path}", json=body, **more)
        assert reply.status_code in (200, 201), f"{path}: {reply.text}"
        return dict(reply.json())

    for path, body in MORE:
        assert http.post(path, json=body).status_code == 200, path
    call(f"/responses/{call('/responses', {**SAID, 'background': True})['id']}/cancel")
    file, unused = (
        call("/files", None, files={"file": ("a.jsonl", b"{}")}, data={"purpose": "fine-tune"})["id"] for _ in range(2)
    )
    assert http.delete(f"/v1/files/{unused}").status_code == 200
    job = call("/fine_tuning/jobs", {"model": "tiny", "training_file": file})["id"]
    for verb in ("pause", "resume", "cancel"):
        call(f"/fine_tuning/jobs/{job}/{verb}")
    bytes_ = {"filename": "a", "purpose": "batch", "mime_type": "text/jsonl", "bytes": 2}
    call(f"/uploads/{call('/uploads', bytes_)['id']}/cancel")
    asked = {"method": "POST", "url": "/v1/completions", "body": {"model": "chat", "prompt": "Hi", "max_tokens": 200}}
    lines = "\n".join(json.dumps({**asked, "custom_id": f"{i}"}) for i in range(200)).encode()  # not soon answered
    upload = call("/uploads", {**bytes_, "bytes": len(lines)})["id"]
    part = call(f"/uploads/{upload}/parts", None, files={"data": lines})["id"]
    file = call(f"/uploads/{upload}/complete", {"part_ids": [part]})["file"]["id"]
    batch = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
    call(f"/batches/{call('/batches', batch)['id']}/cancel")
    custom = {"type": "custom", "item_schema": {"type": "object"}}
    made = call("/evals", {"data_source_config": custom, "testing_criteria": [STRING]})["id"]
    rows = {"type": "file_content", "content": [{"item": {"a": "b"}}] * 200}
    ask = {"type": "template", "template": [{"role": "user", "content": "Hi"}]}
    source = {"type": "completions", "model": "chat", "source": rows, "input_messages": ask}
    source["sampling_params"] = {"max_completion_tokens": 40}  # what is asked already goes on when the run is cancelled
    for verb in ("", "/cancel"):
        run = call(f"/evals/{made}/runs", {"data_source": source})["id"]
        call(f"/evals/{made}/runs/{run}{verb}")
    add_candidate(server, "described")
    assert http.delete("/v1/models/described").status_code == 200


def test_replies_are_as_described(server: Running, watch: Watch, watched: httpx.Client, things: Belongings) -> None:
    walk(server, watched)
    mine = [(method, route) for route in app.routes() for method in sorted(route.methods or ())]
    for method, route in sorted(mine, key=lambda each: (each[0] == "DELETE", -each[1].path.count("{"))):
        key = (method, route.path.replace(":path}", "}"))
        if key not in REPLIES or (key in watch.seen and method != "GET"):
            continue
        thing = str((route.openapi_extra or {}).get(RULE, "")).removeprefix("owner:")
        path = key[1].replace("{id}", things.ids.get(thing, "")).replace("{model}", "chat")
        for name, id in things.inner.items():
            path = path.replace(name, id)
        body = {"metadata": {"a": "b"}, "name": "b", "items": [{"role": "user", "content": "x"}]}
        watched.request(method, path, json=body if method == "POST" else None)
    missed = {key for key in REPLIES if key not in watch.seen}
    assert not missed, f"nothing was seen of {sorted(missed)}"


def test_errors_are_as_described(watched: httpx.Client) -> None:
    for path in ("/v1/evals/none", "/v1/models/none", "/v1/responses/none", "/v1/batches?limit=0"):
        assert watched.get(path).status_code in (400, 404)
    assert watched.post("/v1/chat/completions", json={}).status_code == 400
