"""What goes over the wire, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from starlette.types import Message

from tests.serve.conftest import Running
from tutee.engine.request import Chunk
from tutee.errors import Unavailable
from tutee.serve import streaming
from tutee.serve.replies import install_error_handlers
from tutee.serve.streaming import wait_for
from tutee.serve.wire import Wire

HI = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": "chat", "messages": HI, "max_tokens": 10, "stream": True}


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

    def broken(self):  # type: ignore[no-untyped-def]
        self.broken = Unavailable("The engine stopped.")
        return [(0, Chunk("so far", (1,), "tiny"))]

    monkeypatch.setattr(streaming.Tap, "told", broken)
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
        list(server.sdk().chat.completions.create(**BODY))


def told(raw: bytes) -> str:
    """The text of a stream, by whichever of the three routes it came."""
    text = ""
    for line in raw.split(b"\n"):
        if line.startswith(b"data: {"):
            content = json.loads(line[6:])
            for choice in content.get("choices", ()):
                text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            if content.get("type") == "response.output_text.delta":
                text += content["delta"]
    return text


def whole(route: str, content: Any) -> str:
    """The text of an answer in one piece."""
    if route == "responses":
        return "".join(part["text"] for item in content["output"] for part in item["content"])
    choice = content["choices"][0]
    return str(choice["text"] if route == "completions" else choice["message"]["content"])


@pytest.mark.parametrize("when", ["while it is answered", "while its body is read"])
def test_a_client_that_leaves_is_no_error_of_the_server(when: str, caplog: pytest.LogCaptureFixture) -> None:
    app, stopped, statuses = FastAPI(), [], []
    install_error_handlers(app)

    @app.post("/")
    async def answer(request: HTTPRequest) -> None:
        await request.body()
        await wait_for(request, asyncio.Event().wait(), lambda: stopped.append(True))

    messages = [{"type": "http.request", "body": b"x", "more_body": when != "while it is answered"}]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert statuses[0] == 499
    assert len(stopped) == (when == "while it is answered")
    assert not caplog.records


def test_many_streams_at_once_say_what_is_said_in_one_piece(server: Running) -> None:
    asked = {
        "chat/completions": {"messages": HI, "max_tokens": 40, "ignore_eos": True},
        "completions": {"prompt": "Hi", "max_tokens": 40},
        "responses": {"input": "Hi", "max_output_tokens": 40, "store": False},
    }
    bodies = [
        (route, fields | {"model": "chat", "temperature": 1.0, "seed": seed})
        for seed in range(6)
        for route, fields in asked.items()
    ]
    with server.http() as http, ThreadPoolExecutor(len(bodies)) as pool:
        pieces = pool.map(lambda each: http.post(f"/v1/{each[0]}", json=each[1]), bodies)
        expected = [whole(route, reply.json()) for (route, _), reply in zip(bodies, pieces, strict=True)]
        streams = list(pool.map(lambda each: http.post(f"/v1/{each[0]}", json=each[1] | {"stream": True}), bodies))
    assert [told(each.content) for each in streams] == expected
    assert len(set(expected)) > 8


def test_a_reader_who_is_slow_and_one_who_leaves(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither stops the others; the slow one's answer is made all the same, waits outside of the socket's buffer, and
    is whole once it is read."""
    wires: list[Any] = []

    class Noted(Wire):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            wires.append(self)
            self.transport = self._send.__self__.transport  # type: ignore[attr-defined]
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    monkeypatch.setattr(streaming, "Wire", Noted)
    long: dict[str, Any] = BODY | {"max_tokens": 200, "ignore_eos": True, "seed": 3, "temperature": 1.0}
    slow_body = long | {"logprobs": True, "top_logprobs": 20}  # much to read
    engine = server.services.live.chat.engine
    with server.http() as http, socket.socket() as slow:
        expected = http.post("/v1/chat/completions", json=long | {"stream": False}).json()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", httpx.URL(server.url).port))
        content = json.dumps(slow_body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
        slow.sendall(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + content)
        with server.http() as other, other.stream("POST", "/v1/chat/completions", json=long) as leaving:
            next(leaving.iter_bytes())
        assert told(http.post("/v1/chat/completions", json=long).content) == whole("", expected)
        assert eventually(lambda: engine.stats.running == 0)
        assert eventually(lambda: any(wire._stalled is not None for wire in wires))
        (stuck,) = [wire for wire in wires if wire._stalled is not None]
        held = stuck.transport.get_write_buffer_size()
        raw = b"".join(iter(lambda: slow.recv(1 << 16), b""))
    assert told(_unchunked(raw)) == whole("", expected)
    assert held < 100_000 < 200_000 < len(raw)


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def _unchunked(raw: bytes) -> bytes:
    _, _, rest = raw.partition(b"\r\n\r\n")
    out = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        out, rest = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return out
