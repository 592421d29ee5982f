"""From the engine's thread to a client: chunks into an asyncio loop, and server-sent events out of it.

A `Tap` carries the chunks of one or more requests; an `EventStream` writes events and notices a client that goes away,
which aborts the requests, so the slot is free within a step. LF framing, never an `id:` line (both break real clients).
However many streams a step of the engine feeds, the loop is woken once (`Doorbell`). Knows no route and no OpenAI
object.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary, ref

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tutee.engine.readout import Readout
from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.errors import TuteeError, Unavailable
from tutee.serve.served import Prompt, Served

T = TypeVar("T")
EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
encode = msgspec.json.Encoder().encode


class ClientGoneError(Exception):
    """The client closed the connection before its answer was ready; nobody reads what is returned now."""


def event(content: Any) -> bytes:
    """One server-sent event, JSON in one line."""
    return b"data: " + encode(content) + b"\n\n"


DONE = b"data: [DONE]\n\n"
COMMENT = b": still working\n\n"
"""What readers of events skip; two newlines, because with one some take the next event for a part of it."""


class Doorbell:
    """Calls from other threads into one event loop, which is woken once for all that come before it answers."""

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Doorbell]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._calls: deque[Callable[[], None]] = deque()
        self._rung = False

    @classmethod
    def here(cls) -> Doorbell:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        return cls._of_loop.setdefault(loop, cls(loop))

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop call `function` soon (any thread)."""
        self._calls.append(function)
        if not self._rung:
            self._rung = True
            loop = self._loop()
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server is going down
                if loop is not None:
                    loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._rung = False  # before looking: what comes from here on rings again
        for _ in range(len(self._calls)):
            self._calls.popleft()()


class News:
    """Lets one coroutine wait until other threads have something for it. Made inside a running loop."""

    def __init__(self) -> None:
        self._bell = Doorbell.here()
        self._told = False
        self._waiter: asyncio.Future[None] | None = None

    def tell(self) -> None:
        """There is something now (any thread)."""
        if not self._told:
            self._told = True
            self._bell.call(self._wake)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return at once if there was news since the last time; it may be old news."""
        if not self._told:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._told = False


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
        self.requests: list[Request] = []

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
            self._chunks.append((index, chunk))
            if not self._whole or chunk.finish_reason is not None:
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

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Chunk]]]:
        """All (request, chunk) pairs that have come since the last time, usually those of one step."""
        while self._running:
            await self._news.wait()
            batch = [self._chunks.popleft() for _ in range(len(self._chunks))]
            self._running -= sum(chunk.finish_reason is not None for _, chunk in batch)
            if batch:
                yield batch


class EventStream(Response):
    """A response of server-sent events; `close` is called once when the last event is out or the client is gone."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        close: Callable[[], None],
        headers: Mapping[str, str] | None = None,
        keepalive: float = 0,
    ) -> None:
        """`keepalive`: seconds of silence after which a comment is sent; 0: none ever."""
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
        loop = asyncio.get_running_loop()
        spoke_at = loop.time()

        async def write() -> None:
            nonlocal spoke_at
            async for data in self.events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                spoke_at = loop.time()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def keep_alive() -> None:
            nonlocal spoke_at
            while True:
                await asyncio.sleep(spoke_at + self.keepalive - loop.time())
                if loop.time() >= spoke_at + self.keepalive:
                    await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                    spoke_at = loop.time()

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        beside = asyncio.ensure_future(keep_alive()) if self.keepalive else None
        try:
            with contextlib.suppress(ClientGoneError):
                await unless_gone(write(), receive)
        finally:
            if beside is not None:
                beside.cancel()
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
