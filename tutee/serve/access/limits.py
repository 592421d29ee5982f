"""How much a key and its project may use in a minute: requests and tokens, as buckets that refill evenly.

A request is admitted while there is a whole request and at least one token left; the tokens that it then uses are
charged as they are computed, so a bucket can be overdrawn once and must be refilled before the next request. The server
is one process, so its memory is the place to count. Knows neither routes nor engines.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from tutee.errors import Busy
from tutee.store.schema import ApiKey, Project

Kind = Literal["requests", "tokens"]
MINUTE = 60.0


class RateLimited(Busy):
    """A limit of the key or its project is reached; `type` says which kind of limit."""

    def __init__(self, kind: Kind, limit: int, wait: float) -> None:
        super().__init__(
            f"Rate limit reached for {kind} per minute: the limit is {limit}. Try again in {duration(wait)}.",
            retry_after=wait,
        )
        self.type = kind


class Bucket:
    """What is left of one limit. Not safe between threads by itself (see `Limits`)."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def left(self, now: float) -> float:
        """What may be used now; negative when overdrawn."""
        self._level = min(self.limit, self._level + (now - self._at) * self.limit / MINUTE)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Use some, whether it is there or not."""
        self._level = self.left(now) - amount

    def seconds_until(self, level: float, now: float) -> float:
        """How long it takes to fill up to `level`."""
        return max(0.0, (level - self.left(now)) * MINUTE / self.limit)


class Account:
    """The limits that hold for one caller: those of the key and those of the project."""

    def __init__(self, limits: Limits, buckets: dict[Kind, list[Bucket]]) -> None:
        self._limits = limits
        self._buckets = buckets

    def admit(self) -> None:
        """Count a request.

        Raises:
            RateLimited: with the seconds after which there is room for it.
        """
        with self._limits.lock:
            now = self._limits.clock()
            for kind, buckets in self._buckets.items():
                for bucket in buckets:
                    if (wait := bucket.seconds_until(1.0, now)) > 0:
                        raise RateLimited(kind, bucket.limit, wait)
            for bucket in self._buckets["requests"]:
                bucket.take(1.0, now)

    @property
    def charge(self) -> Callable[[int], None] | None:
        """What to tell of used tokens; None when they are not limited."""
        return self._charge if self._buckets["tokens"] else None

    def _charge(self, tokens: int) -> None:
        with self._limits.lock:
            now = self._limits.clock()
            for bucket in self._buckets["tokens"]:
                bucket.take(tokens, now)

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` of the limits that are nearest."""
        found = {}
        with self._limits.lock:
            now = self._limits.clock()
            for kind, buckets in self._buckets.items():
                if buckets:
                    nearest = min(buckets, key=lambda bucket: bucket.left(now))
                    found[f"x-ratelimit-limit-{kind}"] = str(nearest.limit)
                    found[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(nearest.left(now))))
                    found[f"x-ratelimit-reset-{kind}"] = duration(nearest.seconds_until(nearest.limit, now))
        return found


class Limits:
    """The buckets of every key and project that was seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self._buckets: dict[tuple[str, Kind], Bucket] = {}

    def account(self, holders: Sequence[ApiKey | Project]) -> Account | None:
        """The account of somebody to whom the limits of all `holders` apply; None when there are no limits."""
        found: dict[Kind, list[Bucket]] = {"requests": [], "tokens": []}
        with self.lock:
            for holder in holders:
                for kind, limit in _limits_of(holder).items():
                    if limit is not None:
                        found[kind].append(self._bucket(holder.id, kind, limit))
        return Account(self, found) if found["requests"] or found["tokens"] else None

    def _bucket(self, id: str, kind: Kind, limit: int) -> Bucket:
        bucket = self._buckets.get((id, kind))
        if bucket is None or bucket.limit != limit:
            bucket = self._buckets[id, kind] = Bucket(limit, self.clock())
        return bucket


def _limits_of(holder: ApiKey | Project) -> dict[Kind, int | None]:
    return {"requests": holder.requests_per_minute, "tokens": holder.tokens_per_minute}


def duration(seconds: float) -> str:
    """As OpenAI writes it: `17ms`, `3s`, `1m2s`, rounded up."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
