"""A request from this process to itself: through the same app as everybody's, without a socket and without a key.

Runs in any event loop. Cancelling it is what a client that goes away is: the engine's request is aborted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from tutee.serve.access.auth import IN_PROCESS, Caller


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


async def post(app: ASGIApp, caller: Caller, path: str, body: bytes) -> Answer:
    """POST a JSON body as `caller`."""
    answer, pieces, asked = Answer(), [], False
    given = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": given,
        "client": None,
        "server": None,
        "state": {},
        IN_PROCESS: caller,
    }

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()  # this client never goes away by itself
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], Headers(raw=message["headers"])
        elif message["type"] == "http.response.body":
            pieces.append(message.get("body", b""))

    await app(scope, receive, send)
    answer.body = b"".join(pieces)
    return answer
