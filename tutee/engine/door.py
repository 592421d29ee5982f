"""How many may wait: a bounded queue, and an honest answer to "when shall I come back?".

Knows priorities, owners and moments, not requests. A place in the queue is taken by `enter` and given back by `leave`,
which may be called from different threads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from tutee.errors import Busy

REMEMBERED = 32
"""Latest departures, from which the pace of the queue is taken."""


class Door:
    """Places for `places` waiting requests, worse priorities not counted: background work never shuts out a chat.

    Of these no owner may hold more than are left free, so with one crowding owner half of them stay for others (dynamic
    thresholds, Choudhury and Hahne 1998). Requests without an owner are not limited in this way.
    """

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._clock = clock
        self._waiting: Counter[tuple[int, str | None]] = Counter()
        self._departures: deque[float] = deque(maxlen=REMEMBERED)
        """The first is the moment from which the others are counted: nothing is learned while nobody waits."""
        self._promised = 0.0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Places taken."""
        return self._waiting.total()

    def enter(self, priority: int, owner: str | None) -> None:
        """Take a place. Raises `Busy`, with the seconds after which there should be one."""
        with self._lock:
            rivals = {lane: count for lane, count in self._waiting.items() if lane[0] <= priority}
            free = self._places - sum(rivals.values())
            own = sum(count for (_, name), count in rivals.items() if name == owner)
            if free <= 0:
                raise self._busy(f"{self._places} requests are waiting already; try again later.")
            if owner is not None and own >= free:
                raise self._busy(f"{own} of your requests are waiting already; try again later.")
            if not self._waiting:
                self._departures.clear()
                self._departures.append(self._clock())
            self._waiting[priority, owner] += 1

    def leave(self, priority: int, owner: str | None) -> None:
        """Give a place back: the request runs now, or has ended."""
        with self._lock:
            self._waiting[priority, owner] -= 1
            self._waiting += Counter()  # Forgets the lanes that are empty.
            self._departures.append(self._clock())

    def _busy(self, message: str) -> Busy:
        """Each who is refused is told a later moment than the one before, so that they do not all come back at once;
        but none later than when everybody who waits now should be gone."""
        now = self._clock()
        since = now - self._departures[0]
        departed = len(self._departures) - 1
        pace = since / departed if departed else max(since, 1.0)
        self._promised = min(max(self._promised, now) + pace, now + self._places * pace)
        return Busy(message, retry_after=self._promised - now)
