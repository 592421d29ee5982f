"""What a running job tells the world: one record a step, for the store, the page, the terminal and files alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer that the policy just gave, to be read by a person.

    Args:
        prompt: the last thing that was said to it. reward: None where nothing judged it.
    """

    prompt: str
    answer: str
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job stands.

    Args:
        stage: `candidates`, `head`, `pairs`, `train`, `guard` …
        step: steps done in this stage; `total` of them in all.
        metrics: numbers of this step (losses in nats, lengths in tokens).
        eta_s: seconds until the stage ends, None while unknown.
        health: one plain sentence on how it goes, empty when there is nothing to say.
        samples: a few answers of this step, where the method samples any; given now and then, not at every step.
    """

    stage: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    eta_s: float | None = None
    health: str = ""
    samples: Sequence[Sample] = ()


Report = Callable[[Progress], None]
"""Called after every step. It may raise to stop the job between steps; the last checkpoint stays."""


def silent(progress: Progress) -> None:
    """A report for callers that do not listen."""


class Clock:
    """Seconds left, from the pace since this clock was made (so a resumed run does not count what it did not do)."""

    def __init__(self, done: int = 0) -> None:
        self._start = time.monotonic()
        self._done = done

    def eta(self, step: int, total: int) -> float | None:
        """Seconds until `total` at the mean pace so far; None before the first step."""
        steps = step - self._done
        return (time.monotonic() - self._start) / steps * (total - step) if steps > 0 else None
