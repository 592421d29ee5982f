"""The OpenAPI document against the routes that are really served."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema_rs
import pytest

from tutee.serve import app
from tutee.serve.access.auth import RULE
from tutee.serve.api_schemas import BODIES, FORMS


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
    assert served >= set(BODIES) | set(FORMS)


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
