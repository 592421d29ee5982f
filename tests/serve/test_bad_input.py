"""Bad input, generated from the OpenAPI document: each route, each field of its body, each way of being wrong.

A good body is written down for each route that takes one; the document then says what would be wrong with it: a field
that is missing, null, of another type, out of its range, too long. Every answer must be a 400 that names the field.
Strangers' ids and keys are `test_access.py`'s and `test_keys.py`'s, which walk the same table.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.serve.belongings import Belongings, belongings_of
from tests.serve.conftest import Running, serving
from tutee.serve.access.auth import RULE
from tutee.serve.api_schemas import BODIES, FORMS, Schema
from tutee.serve.app import routes
from tutee.settings import Settings

MESSAGES = [{"role": "user", "content": "Hi"}]
FUNCTION = {"name": "look", "description": "Look", "parameters": {"type": "object"}, "strict": False}
ROW = {"item": {"x": "a"}}
IS = {"type": "string_check", "name": "is", "input": "{{item.x}}", "reference": "a", "operation": "eq"}
CUSTOM = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": False}
SOURCE = {"type": "jsonl", "source": {"type": "file_content", "content": [ROW]}}
HOOK = {"name": "x", "url": "http://127.0.0.1:1/", "event_types": ["batch.completed"]}
UPLOAD = {"bytes": 1, "filename": "a", "mime_type": "text/jsonl", "purpose": "batch"}
RESPONSE = {
    "model": "chat",
    "input": [{"type": "message", "role": "user", "content": "Hi"}],
    "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}],
    "text": {"format": {"type": "text"}},
}
GOOD: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": {
        "model": "chat",
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": FUNCTION}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": False}},
    },
    "POST /v1/chat/completions/{id}": {"metadata": {"a": "b"}},
    "POST /v1/completions": {"model": "chat", "prompt": "Hi"},
    "POST /v1/embeddings": {"model": "chat", "input": "Hi"},
    "POST /v1/moderations": {"input": "Hi"},
    "POST /v1/responses": RESPONSE,
    "POST /v1/responses/input_tokens": RESPONSE,
    "POST /v1/conversations": {"items": RESPONSE["input"]},
    "POST /v1/conversations/{id}": {"metadata": {"a": "b"}},
    "POST /v1/conversations/{id}/items": {"items": RESPONSE["input"]},
    "POST /v1/uploads": UPLOAD,
    "POST /v1/uploads/{id}/complete": {"part_ids": []},
    "POST /v1/batches": {"input_file_id": "FILE", "endpoint": "/v1/completions", "completion_window": "24h"},
    "POST /v1/webhook_endpoints": HOOK,
    "POST /v1/webhook_endpoints/{id}": HOOK,
    "POST /v1/fine_tuning/jobs": {
        "model": "tiny",
        "training_file": "FILE",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
    },
    "POST /v1/fine_tuning/alpha/graders/validate": {"grader": IS},
    "POST /v1/fine_tuning/alpha/graders/run": {"grader": IS, "model_sample": "a", "item": {"x": "a"}},
    "POST /v1/evals": {"data_source_config": CUSTOM, "testing_criteria": [IS]},
    "POST /v1/evals/{id}": {"name": "x"},
    "POST /v1/evals/{id}/runs": {"data_source": SOURCE},
    "POST /tokenize": {"model": "chat", "prompt": "Hi"},
    "POST /detokenize": {"model": "chat", "tokens": [1]},
    "POST /v1/tutee/conversations": {},
    "PATCH /v1/tutee/conversations/{id}": {"title": "x"},
    "POST /v1/tutee/conversations/{id}/messages": {"content": "Hi"},
    "POST /v1/tutee/conversations/{id}/generate": {"parent_id": "MESSAGE", "sampling": {}},
    "POST /v1/tutee/feedback": {"kind": "thumb", "message_id": "ANSWER", "value": 1},
    "PUT /v1/tutee/consent": {"train": False},
}
VALUES: tuple[tuple[str, Any], ...] = (
    ("boolean", True),
    ("string", "x"),
    ("number", 0.5),
    ("array", [[]]),
    ("object", {"x": []}),
)


@pytest.fixture(scope="module")
def http(server: Running) -> Iterator[httpx.Client]:
    with server.http("careless") as client:
        yield client


@pytest.fixture(scope="module")
def things(server: Running, http: httpx.Client) -> Belongings:
    return belongings_of(http, server.sdk(default_headers={"X-Tutee-Actor": "careless"}))


RULES = {
    f"{method} {route.path.replace(':path}', '}').replace(':page}', '}')}": str((route.openapi_extra or {}).get(RULE))
    for route in routes()
    for method in route.methods or ()
}
TAKES = sorted(f"{method} {path}" for method, path in BODIES)


def place(key: str, things: Belongings) -> tuple[str, str]:
    """(method, URL) of a route, for what is one's own."""
    method, path = key.split(" ")
    path = path.replace("{id}", things.ids.get(RULES[key].removeprefix("owner:"), "x"))
    for name, id in {**things.inner, "{project_id}": "proj_default"}.items():
        path = path.replace(name, id)
    return method, re.sub(r"\{[^}]*\}", "x", path)


def good_body(key: str, things: Belongings) -> dict[str, Any]:
    ids = {"FILE": things.ids["file"], "MESSAGE": things.message, "ANSWER": things.ids["message"]}

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(each) for name, each in value.items()}
        return [filled(each) for each in value] if isinstance(value, list) else ids.get(value, value)

    return dict(filled(copy.deepcopy(GOOD[key])))


def options(schema: Schema) -> list[Schema]:
    """The schemas that a value may fit."""
    return [each for option in schema["anyOf"] for each in options(option)] if "anyOf" in schema else [schema]


def mistakes(schema: Schema) -> Iterator[tuple[str, Any]]:
    """(what is wrong, a value that does not fit a schema)."""
    allowed = options(schema)
    types = {option.get("type") for option in allowed}
    if None in types:
        return
    if "integer" in types:
        types.add("whole")
    for kind, value in VALUES:
        if kind not in types:
            yield "wrong type", value
            break
    numbers = [option for option in allowed if option["type"] in ("integer", "number")]
    for option in numbers if types <= {"integer", "whole", "number", "null"} else ():
        for edge, beyond in (("minimum", -1), ("maximum", 1)):
            if edge in option:
                yield "out of range", option[edge] + beyond
        if option["type"] == "integer":
            yield "no whole number", 1.5
    if types <= {"string", "null"}:
        for option in allowed:
            if "enum" in option:
                yield "unknown word", "wizard"
            if "maxLength" in option:
                yield "too long", "x" * (option["maxLength"] + 1)
    for option in allowed:
        if option["type"] == "array" and types <= {"array", "null"}:
            if "maxItems" in option:
                yield "too many", [{}] * (option["maxItems"] + 1)
            if option.get("minItems"):
                yield "too few", []


def fields(schema: Schema, good: Any, path: str = "") -> Iterator[tuple[str, list[str | int], Schema, bool]]:
    """(param, keys that lead there, schema, required) of each field that a good body has or could have."""
    for option in options(schema):
        if option.get("type") == "object" and isinstance(good, dict):
            for name, inner in option.get("properties", {}).items():
                here = f"{path}.{name}" if path else name
                yield here, [name], inner, name in option.get("required", ())
                for param, keys, below, required in fields(inner, good.get(name), here):
                    yield param, [name, *keys], below, required
        elif option.get("type") == "array" and isinstance(good, list) and good:
            for param, keys, below, required in fields(option["items"], good[0], f"{path}[0]"):
                yield param, [0, *keys], below, required


def changed(body: dict[str, Any], keys: list[str | int], value: Any, gone: bool = False) -> dict[str, Any]:
    out: Any = copy.deepcopy(body)
    inner = out
    for key in keys[:-1]:
        inner = inner[key]
    if gone:
        inner.pop(keys[-1], None)
    else:
        inner[keys[-1]] = value
    return dict(out)


def complaint(reply: httpx.Response) -> dict[str, Any]:
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def names(found: str | None, param: str) -> bool:
    """Whether an error is about a field: about itself, something in it, or what it lies in."""
    return found is not None and (found.startswith(param) or param.startswith(found))


def test_every_body_that_is_described_is_tried() -> None:
    assert set(GOOD) == set(TAKES)


@pytest.mark.parametrize("key", TAKES)
def test_each_field_is_checked(http: httpx.Client, things: Belongings, key: str) -> None:
    method, url = place(key, things)
    schema, good = BODIES[*key.split(" ")], good_body(key, things)  # type: ignore[index]
    wrong = []

    def ask(what: str, param: str, body: dict[str, Any]) -> None:
        reply = http.request(method, url, json=body)
        if param in reply.headers.get("x-ignored-params", "").split(","):
            return  # it means nothing beside the other fields, and the reply says so
        if reply.status_code != 400 or not names(complaint(reply)["param"], param):
            wrong.append(f"{param} {what}: {reply.status_code} {reply.text[:200]}")

    for param, keys, field, required in fields(schema, good):
        for what, value in mistakes(field):
            ask(f"{what} ({str(value)[:40]})", param, changed(good, keys, value))
        if required:
            ask("missing", param, changed(good, keys, None, gone=True))
            if not any(option.get("type") == "null" for option in options(field)):
                ask("null", param, changed(good, keys, None))
    assert not wrong, "\n".join(wrong)


def test_a_strict_server_takes_no_field_that_it_does_not_know(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(strict=True)) as running, running.http() as http:
        things = belongings_of(http, running.sdk())
        for key in TAKES:
            if "/tutee/" not in key:  # our own page's
                method, url = place(key, things)
                error = complaint(http.request(method, url, json={**good_body(key, things), "foo": 1}))
                assert (error["param"], error["code"]) == ("foo", "unknown_parameter"), key
        form = {"data": {"purpose": "user_data", "foo": "1"}, "files": {"file": ("a", b"x")}}
        assert complaint(http.post("/v1/files", **form))["param"] == "foo"  # type: ignore[arg-type]


@pytest.mark.parametrize("key", TAKES)
def test_what_is_no_json_object_is_refused(http: httpx.Client, things: Belongings, key: str) -> None:
    method, url = place(key, things)
    json_type = {"content-type": "application/json"}
    for content, headers, code in (
        (b"{", json_type, "invalid_json"),
        (b"[]", json_type, "invalid_type"),
        (b'{"x": "\xff"}', json_type, "invalid_json"),
        (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", json_type, "invalid_json"),
        (b"{}", {"content-type": "text/plain"}, "invalid_content_type"),
        (b"{}", {}, "invalid_content_type"),
    ):
        reply = http.request(method, url, content=content, headers=headers)
        assert (reply.status_code, complaint(reply)["code"]) == (400, code), content[:20]
    reply = http.request(method, url, content=b'{"x": "' + b"x" * (1 << 20) + b'"}', headers=json_type)
    assert (reply.status_code, complaint(reply)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("key", [f"{method} {path}" for method, path in FORMS])
def test_forms_are_checked_like_bodies(http: httpx.Client, things: Belongings, key: str) -> None:
    method, url = place(key, things)
    part = next(name for name, each in FORMS[*key.split(" ")]["properties"].items() if each.get("format") == "binary")  # type: ignore[index]
    for more in ({"json": {}}, {"files": {"other": b"x"}}, {"data": {part: "x"}}, {"content": b"x"}):
        reply = http.request(method, url, **more)  # type: ignore[arg-type]
        assert (reply.status_code, complaint(reply)["type"]) == (400, "invalid_request_error"), (more, reply.text)


def test_other_methods_are_refused(http: httpx.Client, things: Belongings) -> None:
    served: dict[str, set[str]] = {}
    for key in RULES:
        method, path = key.split(" ")
        served.setdefault(path, set()).add(method)
    for path, methods in served.items():
        if path.startswith("/{"):
            continue
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - methods:
            url = re.sub(r"\{[^}]*\}", "x", path)
            matching = {m for p, found in served.items() if re.fullmatch(pattern(p), url) for m in found}
            if method in matching:
                continue  # another route takes it: /v1/responses/input_tokens is no response's id
            reply = http.request(method, url)
            assert reply.status_code in (404, 405), f"{method} {url}: {reply.text}"
            assert complaint(reply)["type"] == "invalid_request_error"


def pattern(path: str) -> str:
    return re.sub(r"\\{model\\}|\\{page\\}", ".+", re.sub(r"\\{(?!model|page)[^}]*\\}", "[^/]+", re.escape(path)))


LISTS = sorted(
    (f"{method} {route.path}", {each.name for each in route.dependant.query_params})
    for route in routes()
    for method in route.methods or ()
    if route.dependant.query_params
)
BAD_QUERIES = (
    ("limit", ("0", "100000000", "x", "1.5", "")),
    ("order", ("up", "")),
    ("after", ("x",)),
    ("status", ("x",)),
    ("order_by", ("x",)),
    ("stream", ("x",)),
    ("starting_after", ("x", "-1")),
)


@pytest.mark.parametrize(("key", "parameters"), LISTS, ids=[key for key, _ in LISTS])
def test_each_parameter_is_checked(http: httpx.Client, things: Belongings, key: str, parameters: set[str]) -> None:
    method, url = place(key, things)
    for name, values in BAD_QUERIES:
        for value in values if name in parameters else ():
            reply = http.request(method, url, params={name: value})
            assert reply.status_code == 400, f"{name}={value}: {reply.status_code} {reply.text[:200]}"
            assert complaint(reply)["param"] == name
