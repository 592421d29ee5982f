"""Driving an engine that has no thread."""

from __future__ import annotations

from collections.abc import Sequence

from tutee.engine.engine import Engine
from tutee.engine.request import Completion, Request, SamplingParams
from tutee.engine.sampler import Sampled
from tutee.engine.scheduler import Scheduled

Asked = tuple[list[int], SamplingParams, str | None]


def finish(engine: Engine) -> None:
    while engine.step():
        pass


def run(engine: Engine, asked: Sequence[Asked]) -> list[Completion]:
    """Submit everything at once, step to the end."""
    requests = [engine.submit(prompt, params, version=version) for prompt, params, version in asked]
    finish(engine)
    return [request.result(timeout=0) for request in requests]


def run_alone(engine: Engine, asked: Sequence[Asked]) -> list[Completion]:
    """One after the other, each with an empty cache."""
    results = []
    for one in asked:
        engine.weights_changed()
        results += run(engine, [one])
    return results


def assert_same(left: Sequence[Completion], right: Sequence[Completion], tolerance: float = 1e-6) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.token_ids == b.token_ids
        assert a.text == b.text
        assert a.finish_reason == b.finish_reason
        assert max(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)) <= tolerance


Trace = list[list[tuple[Request, int, int]]]
"""For every step, for every sequence in it: (request, tokens computed, how many of them were guessed)."""


def trace(engine: Engine) -> Trace:
    """A list that grows with every step from now on."""
    steps: Trace = []
    run = engine._stepper.runner.run

    def run_and_tell(work: list[Scheduled]) -> tuple[list[Scheduled], Sampled]:
        steps.append([(item.sequence.request, item.count, len(item.draft)) for item in work])
        return run(work)

    engine._stepper.runner.run = run_and_tell  # type: ignore[method-assign]
    return steps
