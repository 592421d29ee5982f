"""Waking an event loop from other threads: once for all that they have to say, however many listen.

A `Doorbell` carries calls into one loop; a `News` tells one reader in it that there is something to fetch. Knows
nothing of what is said.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import ClassVar
from weakref import WeakKeyDictionary, ref


class Doorbell:
    """Calls from other threads into one event loop, which is woken once for all that come before it answers."""

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Doorbell]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._calls: deque[Callable[[], None]] = deque()
        self._rung = False
        self._after: deque[Callable[[], None]] = deque()
        self._answering = False

    @classmethod
    def here(cls) -> Doorbell:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        return cls._of_loop.get(loop) or cls._of_loop.setdefault(loop, cls(loop))

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop call `function` soon (any thread). What it raises goes to the loop's exception handler."""
        self._calls.append(function)
        if not self._rung:
            self._rung = True
            loop = self._loop()
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server is going down
                if loop is not None:
                    loop.call_soon_threadsafe(self._answer)

    def then(self, function: Callable[[], None]) -> None:
        """Call `function` when everybody for whom this ring was has been called; now, if there is no ring (loop)."""
        if self._answering:
            self._after.append(function)
        else:
            function()

    def _answer(self) -> None:
        self._rung = False  # before looking: what comes from here on rings again
        self._answering = True
        self._do(self._calls)
        self._answering = False
        self._do(self._after)

    @staticmethod
    def _do(calls: deque[Callable[[], None]]) -> None:
        for _ in range(len(calls)):
            function = calls.popleft()
            try:
                function()
            except Exception as error:  # one must not keep the others waiting
                context = {"message": f"{function} failed when it was called from another thread", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)


class News:
    """Lets one reader in a loop know that other threads have something for it. Made inside a running loop."""

    def __init__(self) -> None:
        self._bell = Doorbell.here()
        self._told = False
        self._reader: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def tell(self) -> None:
        """There is something now (any thread)."""
        if not self._told:
            self._told = True
            self._bell.call(self._ring)

    def _ring(self) -> None:
        if self._reader is not None:
            self._told = False  # before it looks: what comes from here on is told again
            self._reader()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def listen(self, reader: Callable[[], None] | None) -> None:
        """Have the loop call `reader` whenever there is news, and now, because there may be some already. None: nobody
        listens any more; whoever waits next hears what came since."""
        self._reader = reader
        if reader is not None:
            self._told = False
            reader()

    async def wait(self) -> None:
        """Return at once if there was news since the last time; it may be old news."""
        if not self._told:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._told = False
