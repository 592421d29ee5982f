"""Driving an engine that has no thread."""

from __future__ import annotations

from collections.abc import Sequence

from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams

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
