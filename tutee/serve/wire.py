"""Bytes out to one client, as fast as it reads them.

What an answer says while it is made is written in the turn of the loop in which the engine's thread rang, without a
task that has to be woken first: 64 streams are 64 calls. Only a client that does not read gets a task, which waits for
it; what comes meanwhile stays where it is and goes out in one piece. So a slow reader costs no other reader time, and
no memory beyond the answer itself and the socket's buffer. Knows ASGI's `send`, not what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextvars import copy_context
from functools import partial
from types import coroutine
from typing import Any, Protocol

from starlette.types import Send

from tutee.serve.doorbell import Doorbell, News

COMMENT = b": still working\n\n"
"""What readers of events skip; two newlines, because with one some take the next event for a part of it."""

STRAIGHT = "tutee.straight"
"""Where a scope may hold the server's own `send`. What comes between the head of a response and its end goes there,
past all the layers around a route, of which none has to see it."""


class Live(Protocol):
    """What is still being made, in bytes. Used in the loop only."""

    @property
    def news(self) -> News:
        """Tells whenever there may be more."""

    @property
    def over(self) -> bool:
        """Whether no more will come."""

    def more(self) -> bytes:
        """All that came since the last time; may be nothing."""


class Wire:
    """The body of one response. Made inside a running loop.

    Args:
        send: for the end of the body.
        straight: for all that comes before (`STRAIGHT`).
        keepalive: seconds of silence after which a comment is sent; 0: none ever.
    """

    def __init__(self, send: Send, straight: Send | None = None, keepalive: float = 0) -> None:
        self._send_end = send
        self._send = straight or send
        self._loop = asyncio.get_running_loop()
        self._bell = Doorbell.here()
        self._stalled: asyncio.Task[None] | None = None
        self._live: Live | None = None
        self._done: asyncio.Future[None] | None = None
        self._data, self._last = b"", False
        self._keepalive = keepalive
        self._spoke_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if keepalive:
            self._look_in(keepalive)

    async def write(self, data: bytes) -> None:
        """Send these bytes when the client has room for them."""
        await self._room()
        self._spoke_at = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def follow(self, live: Live) -> None:
        """Send what comes until it is over. Raises what `live.more` raises, and what sending raises."""
        self._live, self._done = live, self._loop.create_future()
        context = copy_context()  # whoever rings is not whom this is done for
        live.news.listen(partial(context.run, self._tell))
        try:
            await self._done
        finally:
            live.news.listen(None)
            self._live = None

    async def end(self) -> None:
        """Nothing more comes."""
        self._be_silent()
        await self._room()
        await self._send_end({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """The client is gone, or everything is said."""
        self._be_silent()
        if self._stalled is not None:
            self._stalled.cancel()

    def _tell(self) -> None:
        """Take what there is and send it, unless the client has to read first. Never waits.

        What one ring brought is all put into bytes before the first of it is sent. A client that has many streams
        then finds the next when it has read one; else it would go to sleep and be woken for each, which costs more
        than the sending.
        """
        live, done = self._live, self._done
        if live is None or done is None or done.done() or self._stalled is not None:
            return
        try:
            self._data, self._last = live.more(), live.over
        except Exception as error:
            done.set_exception(error)
        else:
            self._bell.then(self._say)

    def _say(self) -> None:
        done = self._done
        if done is None or done.done():
            return
        try:
            if self._data:
                self._put(self._data)
        except Exception as error:
            done.set_exception(error)
        else:
            if self._last and self._stalled is None:
                done.set_result(None)

    def _put(self, data: bytes) -> None:
        """Send as far as that goes without waiting; a task does the rest."""
        self._spoke_at = self._loop.time()
        sending = self._send({"type": "http.response.body", "body": data, "more_body": True}).__await__()
        try:
            waits_for = next(sending)
        except StopIteration:
            return
        self._stalled = self._loop.create_task(_rest(sending, waits_for))
        self._stalled.add_done_callback(self._unstalled)

    def _unstalled(self, task: asyncio.Task[None]) -> None:
        self._stalled = None
        if task.cancelled():
            return
        self._spoke_at = self._loop.time()  # only now was it heard
        error = task.exception()
        if error is None:
            self._tell()
        elif self._done is not None and not self._done.done():
            self._done.set_exception(error)

    async def _room(self) -> None:
        """Wait until what is on its way has left."""
        while self._stalled is not None:
            await asyncio.wait({self._stalled})

    def _look_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._break_silence)

    def _break_silence(self) -> None:
        silent = self._loop.time() - self._spoke_at
        if silent >= self._keepalive and self._stalled is None:
            self._put(COMMENT)
            silent = 0
        self._look_in(max(self._keepalive - silent, 0.01))

    def _be_silent(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@coroutine
def _rest(sending: Generator[Any, None, None], waits_for: Any) -> Generator[Any, None, None]:
    """What is left of an `await` that was begun without a task, and now has one to wait in."""
    try:
        yield waits_for
        yield from sending
    finally:
        sending.close()
