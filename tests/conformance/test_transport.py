"""T1 to T12: models, errors and the door, as the official SDK and raw HTTP see them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

HELLO: Any = [{"role": "user", "content": "Hello"}]


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error object, checked for OpenAI's shape: exactly four keys, and a request id in the headers."""
    assert reply.headers["x-request-id"].startswith("req_")
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


@pytest.mark.conformance("T1")
def test_models_are_listed(strict_client: openai.OpenAI, model: str) -> None:
    models = list(strict_client.models.list())
    assert model in [entry.id for entry in models]
    assert all(entry.object == "model" and isinstance(entry.created, int) for entry in models)


@pytest.mark.conformance("T3")
def test_an_unknown_model_is_not_found(strict_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        strict_client.models.retrieve("gpt-nobody")
    assert caught.value.code == "model_not_found"


@pytest.mark.conformance("T6")
def test_an_unknown_url_has_the_error_shape(http: httpx.Client) -> None:
    reply = http.post("/v1/nope", json={})
    assert reply.status_code == 404
    error = error_of(reply)
    assert error["type"] == "invalid_request_error"
    assert "POST /v1/nope" in error["message"]


@pytest.mark.conformance("T7")
def test_a_wrong_method_has_the_error_shape(http: httpx.Client) -> None:
    reply = http.get("/v1/embeddings")
    assert reply.status_code == 405
    assert error_of(reply)["type"] == "invalid_request_error"


@pytest.mark.conformance("T8")
def test_a_body_that_is_no_json_is_refused(http: httpx.Client) -> None:
    reply = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert error_of(reply)["type"] == "invalid_request_error"


@pytest.mark.conformance("T9")
def test_a_body_over_the_limit_is_too_large(http: httpx.Client, model: str) -> None:
    words = {"model": model, "messages": [{"role": "user", "content": "x" * (5 << 20)}]}
    reply = http.post("/v1/chat/completions", json=words)
    assert reply.status_code == 413
    assert error_of(reply)["type"] == "invalid_request_error"


@pytest.mark.conformance("T10")
def test_another_content_type_is_refused(http: httpx.Client, model: str) -> None:
    body = json.dumps({"model": model, "messages": HELLO})
    reply = http.post("/v1/chat/completions", content=body, headers={"content-type": "text/plain"})
    assert reply.status_code == 400
    assert "application/json" in error_of(reply)["message"]
