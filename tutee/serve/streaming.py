"""From the engine's thread to a client: chunks into an asyncio loop, and server-sent events out of it.

A `Tap` carries the chunks of one or more requests; an `EventStream` writes events and notices a client that goes away,
which aborts the requests, so the slot is free within a step. LF framing, never an `id:` line (both break real clients).
Knows no route and no OpenAI object.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tutee.engine.engine import Engine
from tutee.engine.request import Chunk, Request, SamplingParams

T = TypeVar("T")
EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_encode = msgspec.json.encode


class ClientGoneError(Exception):
    """The client closed the connection before its answer was ready; nobody reads what is returned now."""


def event(content: Any) -> bytes:
    """One server-sent event, JSON in one line."""
    return b"data: " + _encode(content) + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Tap:
    """Chunks of a group of requests, in the order in which the engine made them. Made inside a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Chunk]] = asyncio.Queue()
        self.requests: list[Request] = []

    def submit(self, engine: Engine, prompt: Sequence[int], params: Sequence[SamplingParams], version: str) -> None:
        """Start one request for each of `params`; if one is refused, the others are stopped and its error is raised."""
        try:
            for index, each in enumerate(params):
                self.requests.append(engine.submit(prompt, each, version=version, on_chunk=self._listener(index)))
        except BaseException:
            self.abort()
            raise

    def _listener(self, index: int) -> Callable[[Chunk], None]:
        def hear(chunk: Chunk) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server is going down
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, chunk))

        return hear

    def abort(self) -> None:
        """Stop whatever still runs, within one engine step."""
        for request in self.requests:
            if not request.done:
                request.abort()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        running = len(self.requests)
        while running:
            index, chunk = await self._queue.get()
            running -= chunk.finish_reason is not None
            yield index, chunk


class EventStream(Response):
    """A response of server-sent events; `close` is called once when the last event is out or the client is gone."""

    def __init__(
        self, events: AsyncIterator[bytes], close: Callable[[], None], headers: Mapping[str, str] | None = None
    ) -> None:
        self.events = events
        self.close = close
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"content-type": "text/event-stream; charset=utf-8", **EVENT_HEADERS, **(headers or {})})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """As usual, but without a Content-Length: the length is not known."""
        self.raw_headers = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            async for data in self.events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            with contextlib.suppress(ClientGoneError):
                await unless_gone(write(), receive)
        finally:
            self.close()


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Await `work`, but cancel it as soon as the client closes the connection.

    Raises:
        ClientGoneError: the client went away first.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, watching):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def wait_for(request: HTTPRequest, work: Coroutine[Any, Any, T], abort: Callable[[], None]) -> T:
    """`unless_gone` for a handler that answers in one piece; calls `abort` if the client leaves or the work fails."""
    try:
        return await unless_gone(work, request.receive)
    except BaseException:
        abort()
        raise
