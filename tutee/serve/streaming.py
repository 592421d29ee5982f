"""From the engine's thread to a client: chunks into an asyncio loop, and server-sent events out of it.

A `Tap` carries the chunks of one or more requests; an `EventStream` writes events and notices a client that goes away,
which aborts the requests, so the slot is free within a step. LF framing, never an `id:` line (both break real clients).
However many streams a step of the engine feeds, the loop is woken once (`doorbell.py`) and writes to all in that turn
(`wire.py`). Knows no route and no OpenAI object.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tutee.engine.readout import Readout
from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.errors import TuteeError, Unavailable
from tutee.serve.doorbell import News
from tutee.serve.replies import ClientGoneError, error_body
from tutee.serve.served import Prompt, Served
from tutee.serve.wire import STRAIGHT, Live, Wire

T = TypeVar("T")
EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
encode = msgspec.json.Encoder().encode


def event(content: Any) -> bytes:
    """One server-sent event, JSON in one line."""
    return b"data: " + encode(content) + b"\n\n"


class Mould:
    """Events that differ in nothing but one text: encoded once, with `MARK` in its place."""

    MARK = "\0text\0"

    def __init__(self, content: Any) -> None:
        self._before, self._after = event(content).split(encode(self.MARK))

    def fill(self, text: str) -> bytes:
        """The event with this text."""
        return self._before + encode(text) + self._after


DONE = b"data: [DONE]\n\n"


class Tap:
    """Chunks of a group of requests, in the order in which the engine made them. Made inside a running loop.

    Args:
        whole: the reader wants the ends only, so that nothing wakes it before.
    """

    def __init__(self, whole: bool = False) -> None:
        self._news = News()
        self._chunks: deque[tuple[int, Chunk]] = deque()
        self._whole = whole
        self._running = 0
        self._ending = False
        self.requests: list[Request] = []
        self.broken: TuteeError | None = None
        """Why one of them ended without an answer, once `told` came to that place."""

    def submit(
        self,
        served: Served,
        prompt: Prompt,
        params: Sequence[SamplingParams],
        owner: str,
        readout: Readout | None = None,
    ) -> None:
        """Start one request for each of `params`; if one is refused, the others are stopped and its error is raised.

        May be called again, also while the chunks are being read. `readout` goes with the first of these requests.
        """
        before = len(self.requests)
        try:
            for each in params:
                listener = self._listener(len(self.requests))
                request = served.submit(prompt, each, owner=owner, on_chunk=listener, readout=readout)
                self.requests.append(request)
                self._running += 1
                readout = None
        except BaseException:
            for request in self.requests[before:]:
                request.abort()
            raise

    def _listener(self, index: int) -> Callable[[Chunk], None]:
        def hear(chunk: Chunk) -> None:
            last = chunk.finish_reason is not None
            if last:
                self._ending = True  # before the chunk is there: it is not taken for one in the middle
            self._chunks.append((index, chunk))
            if last or not self._whole:
                self._news.tell()

        return hear

    def abort(self) -> None:
        """Stop whatever still runs, within one engine step."""
        for request in self.requests:
            if not request.done:
                request.abort()

    def failure(self, index: int) -> TuteeError:
        """Why a request ended without an answer ("error" or "abort")."""
        error = self.requests[index].error
        if isinstance(error, TuteeError):
            return error
        return Unavailable("The engine stopped in the middle of this answer; please try again.")

    @property
    def news(self) -> News:
        """Tells when there are chunks."""
        return self._news

    @property
    def over(self) -> bool:
        """Whether the last chunks of all requests were taken, or those before the first that broke off."""
        return not self._running or self.broken is not None

    def take(self) -> list[tuple[int, Chunk]]:
        """All (request, chunk) pairs that have come since the last time, usually those of one step."""
        chunks = self._chunks
        batch = [chunks.popleft() for _ in range(len(chunks))]
        if self._ending:
            self._running -= sum(chunk.finish_reason is not None for _, chunk in batch)
        return batch

    def told(self) -> list[tuple[int, Chunk]]:
        """As `take`, but up to where an answer broke off, for who tells nothing after that."""
        batch = self.take()
        if self._ending:
            for place, (index, chunk) in enumerate(batch):
                if chunk.finish_reason in ("error", "abort"):
                    self.broken = self.failure(index)
                    return batch[:place]
        return batch

    def check(self) -> None:
        """Raises why an answer broke off, if one did."""
        if self.broken is not None:
            raise self.broken

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Chunk]]]:
        """What `take` gives, as it comes, for who needs not be quick."""
        while self._running:
            await self._news.wait()
            if batch := self.take():
                yield batch


class EventStream(Response):
    """A response of server-sent events; `close` is called once when the last event is out or the client is gone.

    Args:
        events: one after the other, as bytes; what is still being made as `Live`, which is written as it comes. If they
            raise a `TuteeError`, that is the last event.
        keepalive: seconds of silence after which a comment is sent; 0: none ever.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes | Live],
        close: Callable[[], None],
        headers: Mapping[str, str] | None = None,
        keepalive: float = 0,
    ) -> None:
        self.keepalive = keepalive
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
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        wire = Wire(send, scope.get(STRAIGHT), self.keepalive)
        try:
            with contextlib.suppress(ClientGoneError):
                await unless_gone(self._tell(wire), receive)
        finally:
            wire.close()
            self.close()

    async def _tell(self, wire: Wire) -> None:
        try:
            async for part in self.events:
                if isinstance(part, bytes):
                    await wire.write(part)
                else:
                    await wire.follow(part)
        except TuteeError as error:
            await wire.write(event(error_body(error)))
        await wire.end()


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
