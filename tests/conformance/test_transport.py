"""T1 to T12: models, errors and the door, as the official SDK and raw HTTP see them.

What needs a key, a full queue or a swap of versions runs on a server in this process with a tiny random model: those
cases look at the door, not at what the model says.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import write_tiny_model
from tests.serve.conftest import Running, add_candidate, add_full, home_at, serving

END = 257
"""The tiny model's end token."""
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a long context."""
    folder = tmp_path_factory.mktemp("shelf") / "tiny"
    folder.mkdir()
    write_tiny_model(folder, context=4096)
    return folder


@pytest.fixture
def own(shelf: Path, tmp_path: Path) -> Iterator[Running]:
    """A small server in this process: one stream at a time, one request may wait."""
    with serving(home_at(tmp_path / "home", shelf, max_batch=1, max_waiting=1)) as running:
        yield running


@pytest.fixture
def guarded(shelf: Path, tmp_path: Path) -> Iterator[Running]:
    """A server that others could reach: every request needs a key."""
    with serving(home_at(tmp_path / "home", shelf, host="0.0.0.0", admin_key="the-admin-key")) as running:
        yield running


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


@pytest.mark.conformance("T2")
def test_ids_with_colons_and_slashes_are_found(own: Running) -> None:
    name = "ft:org/tiny:acme:support desk:0a1b2c3d"
    add_candidate(own, name)
    assert own.strict().models.retrieve(name).id == name
    assert own.strict().models.delete(name).deleted


@pytest.mark.conformance("T3")
def test_an_unknown_model_is_not_found(strict_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        strict_client.models.retrieve("gpt-nobody")
    assert caught.value.code == "model_not_found"


@pytest.mark.conformance("T4")
def test_without_a_key_nothing_is_answered(guarded: Running) -> None:
    reply = httpx.get(f"{guarded.url}/v1/models")
    assert reply.status_code == 401
    assert error_of(reply)["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError) as caught:
        guarded.sdk().models.list()  # with a key that nobody has
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id
    guarded.sdk().with_options(api_key="the-admin-key").models.list()


@pytest.mark.conformance("T5")
@pytest.mark.parametrize("header", ["Basic dGhlLWFkbWluLWtleQ==", "the-admin-key", "Bearer", "Bearer x y"])
def test_another_scheme_than_bearer_is_refused(guarded: Running, header: str) -> None:
    reply = httpx.get(f"{guarded.url}/v1/models", headers={"Authorization": header})
    assert reply.status_code == 401
    assert error_of(reply)["code"] == "invalid_api_key"


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


def hold(running: Running, tokens: int = 3000) -> openai.Stream[Any]:
    """A long answer that has begun to stream, and does not end by itself."""
    stream: Any = running.sdk().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=tokens, stream=True, logit_bias={str(END): -100}
    )
    next(stream)
    return stream


@pytest.mark.conformance("T11")
def test_a_full_queue_says_when_to_come_back_and_the_sdk_does(own: Running) -> None:
    first = hold(own)
    waiting = threading.Thread(target=lambda: own.sdk().chat.completions.create(**asked()))
    waiting.start()
    while sum(engine.stats.waiting for engine in own.services.live.engines) == 0:
        assert waiting.is_alive(), "nothing waits: the first stream is over"
        time.sleep(0.01)
    with pytest.raises(openai.RateLimitError) as caught:
        own.sdk().chat.completions.create(**asked())
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.code == "rate_limit_exceeded"
    threading.Timer(0.3, first.close).start()
    patient = own.sdk().with_options(max_retries=5)
    answer = patient.chat.completions.with_raw_response.create(**asked())
    assert answer.retries_taken >= 1
    assert answer.parse().choices
    waiting.join()


def asked() -> dict[str, Any]:
    return {"model": "tiny", "messages": HELLO, "max_tokens": 2}


@pytest.mark.conformance("T12")
def test_a_swap_of_versions_breaks_no_stream(shelf: Path, tmp_path: Path) -> None:
    with serving(home_at(tmp_path / "home", shelf)) as running:
        candidate = add_candidate(running, "ft:tiny:local:next:0a1b2c3d")
        make = running.sdk().chat.completions.create
        streams: list[Any] = [make(model="chat", messages=HELLO, max_tokens=400, stream=True) for _ in range(4)]
        before = {next(stream).system_fingerprint for stream in streams}
        running.services.store.promotions.promote(candidate, None, "a test", override=True)
        running.services.live.refresh()
        after = make(model="chat", messages=HELLO, max_tokens=2).system_fingerprint
        assert after not in before
        for stream in streams:
            chunks = list(stream)
            assert chunks[-1].choices[0].finish_reason in ("stop", "length")
            assert {chunk.system_fingerprint for chunk in chunks} == before


@pytest.mark.conformance("T12")
def test_a_swap_of_all_weights_breaks_no_stream_and_makes_nobody_wait(shelf: Path, tmp_path: Path) -> None:
    with serving(home_at(tmp_path / "home", shelf)) as running:
        next_one = add_full(running, "ft:tiny:local:whole:0a1b2c3d")
        make, streams = running.sdk().chat.completions.create, [hold(running, 400) for _ in range(4)]
        before = {next(stream).system_fingerprint for stream in streams}
        for move, expected in (("promote", 1), ("rollback", 0)):
            if move == "promote":
                running.services.store.promotions.promote(next_one, None, "a test", override=True)
            else:
                running.services.store.promotions.rollback(None)
            running.services.live.refresh()
            now = make(model="chat", messages=HELLO, max_tokens=2).system_fingerprint
            assert len({now} - before) == expected
        for stream in streams:
            chunks = list(stream)
            assert chunks[-1].choices[0].finish_reason == "length"
            assert {chunk.system_fingerprint for chunk in chunks} == before


@pytest.mark.conformance("T12")
def test_an_engine_that_is_gone_is_a_503_that_is_tried_again(own: Running) -> None:
    own.services.live.chat.engine.close()
    with pytest.raises(openai.InternalServerError) as caught:
        own.sdk().chat.completions.create(**asked())
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.type == "server_error"
    assert caught.value.code == "engine_unavailable"
