"""What other threads want of the engine's thread: new sequences to run, and errands to do between two steps.

One queue for both, in the order of their arrival, so that an errand has a before and an after. Knows nothing of what an
errand does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from tutee.engine.sequence import Sequence
from tutee.errors import Unavailable


@dataclass(frozen=True, slots=True, eq=False)
class Errand:
    """`drained`: only once all sequences before it have ended. `done` tells who sent it how it went."""

    action: Callable[[], None]
    drained: bool = False
    done: Future[None] = field(default_factory=Future)

    def run(self) -> None:
        try:
            self.action()
        except Exception as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


News = Sequence | Errand


class Inbox:
    """Filled by any thread, emptied by the engine's. With `lock` held nothing comes in from others."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.closed = False
        self._came = threading.Condition(self.lock)
        self._news: deque[News] = deque()

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Those that were not taken yet."""
        return tuple(news for news in tuple(self._news) if isinstance(news, Sequence))

    def put(self, news: News) -> None:
        """Raises `Unavailable` once the inbox is closed."""
        with self.lock:
            if self.closed:
                raise Unavailable("The engine is closed.")
            self._news.append(news)
            self._came.notify_all()

    def take(self, idle: Callable[[], bool]) -> News | None:
        """The oldest news; None when there is none, or when it is an errand that must wait until the engine is `idle`,
        and with it all that came later."""
        with self.lock:
            if not self._news:
                return None
            news = self._news[0]
            if isinstance(news, Errand) and news.drained and not idle():
                return None
            return self._news.popleft()

    def take_aborted(self) -> list[Sequence]:
        """Sequences that were given up before they were taken."""
        aborted = [sequence for sequence in self.sequences if sequence.request.aborted]
        for sequence in aborted:
            with self.lock:
                self._news.remove(sequence)
        return aborted

    def wait(self, busy: Callable[[], object]) -> bool:
        """Until there is news, or the engine is `busy` anyway. False: the inbox is closed."""
        with self._came:
            self._came.wait_for(lambda: self.closed or self._news or busy())
            return not self.closed

    def close(self) -> None:
        """Nothing comes in any more."""
        with self.lock:
            self.closed = True
            self._came.notify_all()
