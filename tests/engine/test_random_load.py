"""Two thousand random requests with everything at once, and what they leave behind: nothing."""

from __future__ import annotations

import gc
import logging
import random
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tutee.engine.engine import Engine
from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.errors import Busy
from tutee.model.decoder import Decoder
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained

from .conftest import END, random_lora
from .stepping import assert_same, finish, run

REQUESTS = 2000
FEW = dict.fromkeys((10, 11, 12), 9.0) | {END: 6.0}


@pytest.fixture(scope="module")
def small(tiny: Pretrained) -> Pretrained:
    """One narrow layer: the least that still has everything."""
    config = replace(
        tiny.config, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8
    )
    return replace(tiny, config=config, decoder=Decoder(config, torch.float32).initialise(seed=5, std=0.3))


def random_request(dice: random.Random) -> tuple[list[int], SamplingParams]:
    """Prompts of few different tokens (prefixes are shared, guesses come true), every kind of sampling and end."""
    prompt = [10, 11, 12, 10, 12][: dice.randint(1, 5)] * dice.randint(1, 5) + [dice.randint(10, 12)]
    params = SamplingParams(
        temperature=dice.choice((0.0, 0.7, 1.0)),
        top_p=dice.choice((1.0, 0.9)),
        frequency_penalty=dice.choice((0.0, 0.0, 0.4)),
        seed=dice.randrange(2**32),
        max_tokens=dice.randint(1, 12),
        stop=dice.choice(((), (), ("+,",))),
        logprobs=dice.choice((None, 0)),
        logit_bias=FEW,
    )
    return prompt, params


def broken(_: Chunk) -> None:
    raise RuntimeError("the listener is gone")


def submissions(engine: Engine, dice: random.Random, count: int) -> Iterator[tuple[Request, SamplingParams]]:
    """Submit `count` requests (of any owner, version and priority); those that are refused come back later."""
    for _ in range(count):
        prompt, params = random_request(dice)
        while True:
            try:
                request = engine.submit(
                    prompt,
                    params,
                    version=dice.choice((None, None, "v1", "v2", "diverged")),
                    priority=dice.choice((0, 0, 10)),
                    owner=dice.choice((None, "a", "b", "c")),
                    on_chunk=broken if dice.random() < 0.01 else None,
                )
                break
            except Busy:
                engine.step()
        yield request, params


def test_two_thousand_requests_leave_nothing_behind(small: Pretrained, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "tutee.engine")  # Broken listeners are logged with their tracebacks.
    dice = random.Random(4)
    engine = Engine(
        small,
        max_batch=24,
        cache_tokens=320,
        block_size=4,
        max_step_tokens=96,
        max_waiting=40,
        speculation="always",
        autostart=False,
    )
    adapters = {"v1": random_lora(small.config, 1), "v2": random_lora(small.config, 2), "diverged": Lora(small.config)}
    with torch.no_grad():
        next(iter(adapters["diverged"].parameters())).fill_(float("nan"))
    for name, lora in adapters.items():
        engine.add_version(name, lora)
    reasons: Counter[str] = Counter()
    running: list[Request] = []
    finished: list[tuple[Request, SamplingParams]] = []
    for request, params in submissions(engine, dice, REQUESTS):
        running = [old for old in running if not old.done] + [request]
        finished.append((request, params))
        if dice.random() < 0.05:
            dice.choice(running).abort()
        if dice.random() < 0.005:
            engine.weights_changed()
        if dice.random() < 0.05:
            for _ in range(dice.randint(1, 12)):
                engine.step()
    engine.step()
    samplers = [weakref.ref(sequence.sampler) for sequence in engine._stepper.unfinished]
    assert samplers
    finish(engine)

    assert_nothing_left(engine)
    for request, _ in finished:
        reasons[request.result(timeout=0).finish_reason] += 1
    assert sum(reasons.values()) == REQUESTS
    assert min(reasons.values()) > 20, reasons
    assert engine.stats.preemptions_total > 20
    assert engine.stats.accepted_tokens_total > 100
    assert engine.stats.cached_tokens_total > 1000
    gc.collect()
    assert [sampler() for sampler in samplers if sampler() is not None] == []
    whole = [(r, p) for r, p in finished if r.result().finish_reason in ("stop", "length") and p.logprobs == 0]
    assert_answers_are_those_of_requests_alone(small, adapters, dice.sample(whole, 60))


def assert_nothing_left(engine: Engine) -> None:
    stats = engine.stats
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert engine._pool.available == engine._pool.capacity
    assert engine._door.waiting == 0
    assert not engine.busy
    assert not engine._stepper.scheduler._shares._present
    assert not engine._stepper.scheduler._shares._served
    assert not engine._stepper.scheduler.waiting._lanes
    assert not engine._inbox._news
    engine._pool.forget_all()
    assert sorted(engine._pool._empty) == list(range(1, engine._pool.capacity + 1))


def assert_answers_are_those_of_requests_alone(
    model: Pretrained, adapters: dict[str, Lora], some: list[tuple[Request, SamplingParams]]
) -> None:
    alone = Engine(model, max_batch=1, cache_tokens=1024, speculation="never", autostart=False)
    for name, lora in adapters.items():
        alone.add_version(name, lora)
    for request, params in some:
        alone.weights_changed()
        assert_same([request.result()], run(alone, [(list(request.prompt), params, request.version)]))
