"""The events of a response in the background: followed by any number of readers, from any number on, and kept.

Its readers come and go; the response does not care. What was told is in memory until it has ended, and in the database
a second later (`store/responses.py`), from where it can be read for as long as the response is kept. Does not know what
the events say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from tutee.serve.doorbell import News
from tutee.store import Store

SAVE_S = 1.0
"""How much of an unfinished story a killed server may forget."""


class _Typed(msgspec.Struct):
    type: str


_typed = msgspec.json.Decoder(_Typed).decode


def frame(event: bytes) -> bytes:
    """One event (JSON) as it goes to a client."""
    return b"event: " + _typed(event).type.encode() + b"\ndata: " + event + b"\n\n"


class Story:
    """What is told of one response, event by event (JSON, one line each), numbered from 0."""

    def __init__(self, store: Store, response_id: str) -> None:
        self._store = store
        self._id = response_id
        self._events: list[bytes] = []
        self._over = False
        self._lock = threading.Lock()
        self._readers: set[News] = set()
        self._saved = 0
        self._tried_at = float("-inf")

    def add(self, events: Sequence[bytes], over: bool = False) -> None:
        """Tell on (any thread). `over`: nothing more will come."""
        self._events += events
        self._over = self._over or over
        with self._lock:
            readers = tuple(self._readers)
        for reader in readers:
            reader.tell()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return not self._over and self._saved < len(self._events) and time.monotonic() - self._tried_at >= SAVE_S

    def unsaved(self) -> tuple[int, list[bytes]]:
        """(number of the first, events) that are not kept yet."""
        return self._saved, self._events[self._saved :]

    def save(self) -> None:
        """Keep what was told so far (not in a loop: it waits for the database)."""
        self._tried_at = time.monotonic()
        first, events = self.unsaved()
        self._store.responses.add_events(self._id, first, events)
        self._saved = first + len(events)

    async def follow(self, after: int = -1) -> AsyncIterator[list[bytes]]:
        """All events after number `after`, those that are there at once, the others as they are told; of a story that
        is shorter, how it ended."""
        news = News()
        with self._lock:
            self._readers.add(news)
        try:
            at = after + 1
            while True:
                over = self._over  # before looking: what is added later rings
                if new := self._events[at:]:
                    yield new
                    at += len(new)
                elif over:
                    if at > len(self._events):
                        yield self._events[-1:]
                    return
                else:
                    await news.wait()
        finally:
            with self._lock:
                self._readers.discard(news)
