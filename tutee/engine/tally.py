"""Counts finished requests and tells whoever waits for them. Knows nothing else of requests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tutee.engine.request import Chunk


class Tally:
    """How many of `total` requests are finished; `progress(done, total)` is called by the thread that waits."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._progress = progress
        self._done = self._told = 0
        self._news = threading.Condition()

    def on_chunk(self, chunk: Chunk) -> None:
        """To be given to every request."""
        if chunk.finish_reason is not None:
            with self._news:
                self._done += 1
                self._news.notify_all()

    def wait(self, count: int, *, block: bool) -> bool:
        """Whether `count` are finished; with `block`, waits until they are. Reports progress on the way."""
        while True:
            with self._news:
                while block and self._done < count and self._done == self._told:
                    self._news.wait()
                done = self._done
            if self._progress is not None and done > self._told:
                self._progress(done, self._total)
            self._told = done
            if done >= count or not block:
                return done >= count
