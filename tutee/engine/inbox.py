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
    """`done` tells who sent it how it went."""

    action: Callable[[], None]
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
        self.unanswered = 0
        """Sequences that were put in and have not ended."""
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
            self.unanswered += isinstance(news, Sequence)
            self._came.notify_all()

    def take(self) -> News | None:
        """The oldest news, if there is any."""
        with self.lock:
            return self._news.popleft() if self._news else None

    def ended(self) -> None:
        """A sequence that was put in has ended."""
        with self.lock:
            self.unanswered -= 1

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
