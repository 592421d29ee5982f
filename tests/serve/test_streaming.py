"""What goes over the wire, byte by byte."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from functools import partial
from typing import Any

import httpx

from tests.serve.conftest import Running
from tutee.engine.request import Chunk
from tutee.errors import Unavailable
from tutee.serve.doorbell import Doorbell, News

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

    from tutee.serve.chat import routes as chat_completions

    def broken(self):  # type: ignore[no-untyped-def]
        self.tap.broken = Unavailable("The engine stopped.")
        return [(0, Chunk("so far", (1,), "tiny"))]

    monkeypatch.setattr(chat_completions.Answering, "take", broken)
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


def test_one_wake_up_for_all_that_comes_before_the_loop_answers() -> None:
    async def run() -> tuple[int, list[int]]:
        loop, bell = asyncio.get_running_loop(), Doorbell.here()
        rings, called, real = 0, [], loop.call_soon_threadsafe

        def counting(*args: Any) -> Any:
            nonlocal rings
            rings += 1
            return real(*args)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
        for i in range(64):
            bell.call(partial(called.append, i))
        await asyncio.sleep(0.01)
        return rings, called

    assert asyncio.run(run()) == (1, list(range(64)))


def test_no_news_is_lost_between_threads() -> None:
    async def run() -> int:
        news, told, heard = News(), deque[int](), 0

        def tell() -> None:
            for i in range(5000):
                told.append(i)
                news.tell()

        threads = [threading.Thread(target=tell) for _ in range(2)]
        for thread in threads:
            thread.start()
        while heard < 10_000:
            await asyncio.wait_for(news.wait(), 5)
            heard += len([told.popleft() for _ in range(len(told))])
        return heard

    assert asyncio.run(run()) == 10_000
