"""What the engine counts, for metrics and for tests. Knows when tokens came and for whom, no tensors."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tutee.engine.sequence import Sequence

RATE_WINDOW_S = 5.0
WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """How many observations fell into each bucket; an upper bound belongs to its bucket. One thread writes."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """The last one counts what is above every bound."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def plus(self, other: Histogram) -> Histogram:
        """Both together; they have the same bounds."""
        both = Histogram(self.bounds)
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.sum = self.sum + other.sum
        return both


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One moment of the engine; totals count from its start."""

    running: int
    waiting: int
    blocks_used: int
    """Blocks held by running requests."""
    blocks_cached: int
    """Blocks that hold a prefix which the next request may find."""
    blocks_total: int
    tokens_per_second: float
    """Generated tokens, over the last few seconds."""
    requests_total: int
    prompt_tokens_total: int
    cached_tokens_total: int
    generated_tokens_total: int
    preemptions_total: int
    steps_total: int
    failures_total: int
    guessed_tokens_total: int
    """Tokens computed ahead by speculation."""
    accepted_tokens_total: int
    """Those of them that were right."""
    generated_by_version: Mapping[str, int]
    histograms: Mapping[str, Histogram]
    """`time_to_first_token_seconds`, `inter_token_seconds`, `queue_seconds`, `batch_size`; still being written."""

    def plus(self, other: EngineStats) -> EngineStats:
        """The sum of two engines' numbers."""
        versions = Counter(self.generated_by_version) + Counter(other.generated_by_version)
        histograms = {name: mine.plus(other.histograms[name]) for name, mine in self.histograms.items()}
        numbers = {each.name for each in fields(self)} - {"generated_by_version", "histograms"}
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        return replace(self, generated_by_version=versions, histograms=histograms, **sums)

    def ended(self) -> EngineStats:
        """What is left of an engine that was closed: its totals."""
        return replace(self, running=0, waiting=0, blocks_used=0, blocks_cached=0, blocks_total=0, tokens_per_second=0)


@dataclass(slots=True)
class Counters:
    """The running totals. Written by the engine's thread only."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    failures: int = 0
    generated: Counter[str] = field(default_factory=Counter)
    """Tokens by version."""
    first_token: Histogram = field(default_factory=lambda: Histogram(WAITS_S))
    inter_token: Histogram = field(default_factory=lambda: Histogram(GAPS_S))
    queue: Histogram = field(default_factory=lambda: Histogram(WAITS_S))
    batch_size: Histogram = field(default_factory=lambda: Histogram(SIZES))
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=4096))

    def count_step(self, sequences: int, generated: int) -> None:
        """A step of so many sequences that gave so many tokens."""
        self.steps += 1
        self.batch_size.observe(sequences)
        self._recent.append((time.monotonic(), generated))

    def count_token(self, sequence: Sequence, now: float) -> None:
        """A sequence got a token at `now` (monotonic seconds)."""
        request = sequence.request
        if sequence.last_token_at is None:
            self.prompt_tokens += sequence.prompt_length
            self.cached_tokens += request.cached_tokens
            self.queue.observe(sequence.admitted_at - request.submitted_at)
            self.first_token.observe(now - request.submitted_at)
        else:
            self.inter_token.observe(now - sequence.last_token_at)
        sequence.last_token_at = now
        self.generated[sequence.version.name] += 1

    def histograms(self) -> dict[str, Histogram]:
        """By the name that `/metrics` gives them after `tutee_`."""
        return {
            "time_to_first_token_seconds": self.first_token,
            "inter_token_seconds": self.inter_token,
            "queue_seconds": self.queue,
            "batch_size": self.batch_size,
        }

    def rate(self) -> float:
        """Generated tokens per second over the last `RATE_WINDOW_S` seconds."""
        since = time.monotonic() - RATE_WINDOW_S
        return sum(generated for moment, generated in tuple(self._recent) if moment >= since) / RATE_WINDOW_S
