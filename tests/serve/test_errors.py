"""OpenAI's error shape on every route, whatever is wrong; and the headers that every response carries."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import Running
from tutee.serve.edge import SECURITY_HEADERS

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def check_shape(reply: httpx.Response) -> dict[str, Any]:
    body = reply.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"].startswith("req_")
    for name, value in SECURITY_HEADERS.items():
        assert reply.headers[name] == value
    return dict(body["error"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nope", 404),
        ("GET", "/v1/chat/completions/none/messages/none", 404),
        ("DELETE", "/v1/chat/completions", 405),
        ("GET", "/v1/nope", 404),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/chat/completions/none", 404),
        ("GET", "/v1/files/none", 404),
        ("GET", "/v1/fine_tuning/jobs/none", 404),
        ("GET", "/v1/tutee/conversations/none", 404),
        ("GET", "/v1/tutee/messages/none", 404),
        ("GET", "/v1/tutee/messages/none/stream", 404),
        ("GET", "/v1/tutee/feedback/none", 404),
        ("GET", "/v1/tutee/versions/none", 404),
        ("GET", "/v1/tutee/snapshots/none", 404),
        ("GET", "/v1/tutee/trace/none", 404),
        ("GET", "/v1/tutee/trace/fb-none", 404),
        ("PUT", "/v1/chat/completions", 405),
        ("PATCH", "/v1/files", 405),
        ("GET", "/v1/tutee/improve/x", 404),
        ("GET", "/v1/fine_tuning/jobs?limit=0", 400),
        ("GET", "/v1/fine_tuning/jobs?limit=x", 400),
        ("GET", "/assets/../../app.py", 404),
        ("GET", "/v1/files?after=%00", 400),
        ("GET", "/v1/models/a%00b", 400),
    ],
)
def test_wrong_urls_and_methods(http: httpx.Client, method: str, path: str, status: int) -> None:
    reply = http.request(method, path)
    error = check_shape(reply)
    assert reply.status_code == status
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", JSON, 400, "missing_required_parameter"),
        (b"{", JSON, 400, "invalid_json"),
        (b"[]", JSON, 400, "invalid_type"),
        (b'"x"', JSON, 400, "invalid_type"),
        (b'{"model": "\xff"}', JSON, 400, "invalid_json"),
        (b'{"model": "\\ud800"}', JSON, 400, "invalid_json"),
        (b'{"model": "a\\u0000b"}', JSON, 400, "invalid_json"),
        (b'{"temperature": NaN}', JSON, 400, "invalid_json"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 400, "invalid_json"),
        (b'{"model": "chat"}', {"content-type": "text/plain"}, 400, "invalid_content_type"),
        (b'{"model": "chat"}', {}, 400, "invalid_content_type"),
        (b'{"model": "' + b"x" * (1 << 20) + b'"}', JSON, 413, "request_too_large"),
    ],
    ids=["empty", "cut", "list", "string", "latin1", "surrogate", "nul", "nan", "deep", "plain", "untyped", "huge"],
)
def test_bad_bodies(http: httpx.Client, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    for path in (CHAT, "/v1/fine_tuning/jobs"):
        reply = http.post(path, content=body, headers=headers)
        error = check_shape(reply)
        assert (reply.status_code, error["code"]) == (status, code)


@pytest.mark.parametrize("headers", [{"host": "[::1"}, {"origin": "http://[::1"}], ids=str)
def test_addresses_that_cannot_be_read_are_strangers(http: httpx.Client, headers: dict[str, str]) -> None:
    reply = http.post(CHAT, json={}, headers=headers)
    check_shape(reply)
    assert reply.status_code == 403


def test_a_body_without_a_length_is_counted_as_it_comes(http: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b"x" * 65536

    reply = http.post(CHAT, content=endless(), headers=JSON)
    assert reply.status_code == 413
    check_shape(reply)


def test_an_unexpected_exception_is_a_500_in_shape_without_details(server: Running, monkeypatch: Any) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(server.services.store.conversations, "list", explode)
    with server.http() as http:
        reply = http.get("/v1/tutee/conversations")
    assert reply.status_code == 500
    error = check_shape(reply)
    assert error["type"] == "server_error"
    assert "secret" not in reply.text


def test_a_full_disk_is_a_503_that_says_so(server: Running, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server.services.store.conversations, "create", full)
    with server.http() as http:
        reply = http.post("/v1/tutee/conversations", json={})
    assert reply.status_code == 503
    assert check_shape(reply)["code"] == "disk_full"


def test_a_full_queue_is_a_429_that_the_client_retries(server: Running, monkeypatch: Any) -> None:
    from tutee.errors import Busy

    engine = server.services.live.base.engine
    real, calls = engine.submit, []

    def submit(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise Busy("The queue is full.", retry_after=0.1)
        return real(*args, **options)

    monkeypatch.setattr(engine, "submit", submit)
    ask: Any = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=2)
    assert client.chat.completions.create(**ask).choices
    assert len(calls) == 2


@pytest.mark.parametrize("path", ["/", "/health", "/version", "/metrics", "/v1/models", "/v1/tutee/me"])
def test_good_responses_carry_the_headers_too(http: httpx.Client, path: str) -> None:
    reply = http.get(path)
    assert reply.status_code == 200
    assert reply.headers["x-request-id"]
    for name, value in SECURITY_HEADERS.items():
        assert reply.headers[name] == value
    assert "server" not in reply.headers


def test_the_policy_forbids_what_it_must() -> None:
    policy = dict(part.split(" ", 1) for part in SECURITY_HEADERS["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == "'none'"
    assert not any(word in SECURITY_HEADERS["content-security-policy"] for word in ("unsafe", "http:", "https:", "*"))
