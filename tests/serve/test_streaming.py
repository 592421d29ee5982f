"""What goes over the wire, byte by byte."""

from __future__ import annotations

import json

import httpx

from tests.serve.conftest import Running
from tutee.engine.request import Chunk
from tutee.errors import Unavailable

BODY = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "stream": True}


def test_framing_is_lf_only_without_ids_and_ends_with_done(http: httpx.Client) -> None:
    reply = http.post("/v1/chat/completions", json=BODY)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "content-length" not in reply.headers
    assert "content-encoding" not in reply.headers
    raw = reply.content
    assert b"\r" not in raw
    assert raw.endswith(b"data: [DONE]\n\n")
    events = raw.removesuffix(b"\n\n").split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    for event in events[:-1]:
        chunk = json.loads(event.removeprefix(b"data: "))
        assert chunk["object"] == "chat.completion.chunk"
        assert all(choice["finish_reason"] != "" for choice in chunk["choices"])
        assert "usage" not in chunk


def test_characters_are_never_split(http: httpx.Client) -> None:
    """A token is one byte here, so every character beyond ASCII takes several steps."""
    bias = {str(token): 100 for token in range(256)}
    reply = http.post("/v1/chat/completions", json=BODY | {"max_tokens": 200, "logit_bias": bias, "temperature": 2})
    pieces = [json.loads(e[6:]) for e in reply.text.split("\n\n") if e.startswith("data: {")]
    text = "".join(c["delta"].get("content", "") for p in pieces for c in p["choices"])
    whole = http.post("/v1/chat/completions", json=BODY | {"stream": False, "temperature": 0}).json()
    assert text.encode("utf-8", "strict")
    assert whole["choices"][0]["message"]["content"].encode("utf-8", "strict")


def test_an_engine_error_in_mid_stream_is_an_error_event_and_the_end(server: Running, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import openai
    import pytest

    from tutee.serve import chat_completions

    async def broken(self):  # type: ignore[no-untyped-def]
        yield [(0, Chunk("so far", (1,), "tiny"))]
        raise Unavailable("The engine stopped.")

    monkeypatch.setattr(chat_completions.Answering, "chunks", broken)
    with server.http() as http:
        raw = http.post("/v1/chat/completions", json=BODY).content
    assert b"[DONE]" not in raw
    last = json.loads(raw.removesuffix(b"\n\n").split(b"\n\n")[-1][6:])
    assert last == {
        "error": {
            "message": "The engine stopped.",
            "type": "server_error",
            "param": None,
            "code": "engine_unavailable",
        }
    }
    with pytest.raises(openai.APIError, match="The engine stopped"):
        list(server.sdk().chat.completions.create(**BODY))  # type: ignore[call-overload]
