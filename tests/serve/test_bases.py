"""A version with full weights takes the place of the base: nobody waits, nothing breaks, and the memory comes back."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.engine.conftest import END
from tutee.engine.request import SamplingParams
from tutee.serve import bases
from tutee.settings import Settings

from .conftest import Running, Walk, add_full, halted, serving

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def own(make_home: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(bases, "LINGER_SECONDS", 0.0)
    with serving(make_home()) as running:
        yield running


def ask(running: Running, **more: Any) -> Any:
    given: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_tokens": 8, "temperature": 0} | more
    return running.sdk().chat.completions.create(**given)


def endless(running: Running, tokens: int) -> openai.Stream[Any]:
    """A stream that has begun."""
    stream: openai.Stream[Any] = ask(running, max_tokens=tokens, stream=True, logit_bias={str(END): -100})
    next(stream)
    return stream


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def promote(running: Running, name: str) -> Walk:
    walk = Walk(running.http())
    walk.call("POST", f"/versions/{name}/promote", {"override": True, "reason": "a test"})
    return walk


def test_new_requests_get_the_new_weights_while_old_streams_end_on_theirs(own: Running) -> None:
    before = ask(own)
    with halted(own.services.live.base.engine, steps=20):
        stream = endless(own, 100)
        add_full(own, "next")
        walk = promote(own, "next")
        after = ask(own)
        assert after.system_fingerprint != before.system_fingerprint
        assert after.choices[0].message.content != before.choices[0].message.content
        assert len(own.services.live.engines) == 2, "the stream still runs on the old weights"
    chunks = list(stream)
    assert {chunk.system_fingerprint for chunk in chunks} == {before.system_fingerprint}
    assert chunks[-1].choices[0].finish_reason == "length"
    wait_until(lambda: len(own.services.live.engines) == 1)
    walk.call("POST", "/rollback", {})
    again = ask(own)
    assert again.system_fingerprint == before.system_fingerprint
    assert again.choices[0].message.content == before.choices[0].message.content


def test_the_memory_of_weights_that_are_not_live_comes_back(own: Running) -> None:
    tokens = ask(own).usage.completion_tokens
    old = own.services.live.chat
    held: list[weakref.ref[Any]] = [
        weakref.ref(old.model.decoder),
        weakref.ref(old.engine),
        weakref.ref(old.engine._stepper.runner.cache),
    ]
    del old
    add_full(own, "next")
    promote(own, "next")

    def gone() -> bool:
        gc.collect()
        return [one() for one in held] == [None] * len(held)

    wait_until(gone)
    assert len(own.services.live.engines) == 1
    tokens += ask(own).usage.completion_tokens
    assert sum(stats.generated_tokens_total for stats in own.services.live.stats) == tokens, "no total ever falls"
    blocks = sum(stats.blocks_total for stats in own.services.live.stats)
    assert blocks == own.services.live.chat.engine.stats.blocks_total


def test_who_may_still_ask_keeps_the_engine_open(own: Running) -> None:
    live = own.services.live
    held = live.base
    add_full(own, "next")
    promote(own, "next")
    for _ in range(3):
        live._bases.close_unused()
    assert held.engine.generate([[1, 2, 3]], SamplingParams(max_tokens=2))[0][0].token_ids
    del held
    wait_until(lambda: len(live.engines) == 1)
    assert ask(own, model="tiny").model == "tiny"  # read again when it is named
