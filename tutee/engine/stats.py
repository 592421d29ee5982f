"""What the engine counts, for metrics and for tests. Knows no requests and no tensors."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

RATE_WINDOW_S = 5.0


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


@dataclass(slots=True)
class Counters:
    """The running totals. Written by the engine's thread only."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    failures: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=4096))

    def count_step(self, generated: int) -> None:
        self.steps += 1
        self.generated_tokens += generated
        self._recent.append((time.monotonic(), generated))

    def rate(self) -> float:
        """Generated tokens per second over the last `RATE_WINDOW_S` seconds."""
        since = time.monotonic() - RATE_WINDOW_S
        return sum(generated for moment, generated in tuple(self._recent) if moment >= since) / RATE_WINDOW_S
