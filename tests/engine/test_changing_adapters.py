"""Adapters that come, go and change places while answers are being written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from tutee.engine.engine import Engine
from tutee.engine.request import Chunk, SamplingParams
from tutee.errors import InvalidInput
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained

from .conftest import random_lora
from .stepping import assert_same, finish, run

MakeEngine = Callable[..., Engine]
PROMPT = list(range(40, 52))
PARAMS = SamplingParams(max_tokens=12, seed=1, ignore_eos=True, logprobs=0)


def test_an_adapter_is_replaced_under_its_name_while_it_answers(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    engine.add_version("policy", random_lora(tiny.config, 1))
    (first,) = run(engine, [(PROMPT, PARAMS, "policy")])
    running = engine.submit(PROMPT, PARAMS, version="policy")
    engine.step()
    engine.add_version("policy", random_lora(tiny.config, 2), replace=True)
    (second,) = run(engine, [(PROMPT, PARAMS, "policy")])
    assert_same([running.result(timeout=0)], [first])
    assert second.cached_tokens == 0
    assert second.token_ids != first.token_ids


def test_more_adapters_than_fit_are_loaded_again(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine(max_adapters=2)
    loads: list[int] = []

    def load(seed: int) -> Lora:
        loads.append(seed)
        return random_lora(tiny.config, seed)

    for i in range(4):
        engine.add_version(f"v{i}", partial(load, i))
    answers = [run(engine, [(PROMPT, PARAMS, f"v{i}")])[0] for i in range(4)]
    assert loads == [0, 1, 2, 3]
    assert engine.versions == ("base", "v0", "v1", "v2", "v3")
    (again,) = run(engine, [(PROMPT, PARAMS, "v0")])
    assert loads == [0, 1, 2, 3, 0]
    assert_same([again], answers[:1])
    assert again.cached_tokens > 0
    # All at once: who runs keeps its adapter, however many that are.
    together = run(engine, [(PROMPT, PARAMS, f"v{i}") for _ in range(2) for i in range(4)])
    assert_same(together, answers * 2)


def test_a_dropped_adapter_that_still_answers_is_taken_up_again(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine(max_adapters=1)
    loads: list[int] = []

    def load(seed: int) -> Lora:
        loads.append(seed)
        return random_lora(tiny.config, seed)

    for i in range(2):
        engine.add_version(f"v{i}", partial(load, i))
    requests = [engine.submit(PROMPT, PARAMS, version=name) for name in ("v0", "v1", "v0")]
    finish(engine)
    assert loads == [0, 1]
    assert_same([requests[0].result(timeout=0)], [requests[2].result(timeout=0)])


def test_a_load_that_fails_is_the_callers_error_and_is_tried_again(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    broken = [True]

    def load() -> Lora:
        if broken.pop():
            raise InvalidInput("no such file", param="model")
        return random_lora(tiny.config, 1)

    engine.add_version("v1", load)
    with pytest.raises(InvalidInput, match="no such file"):
        engine.prepare("v1")
    broken.append(False)
    assert run(engine, [(PROMPT, PARAMS, "v1")])[0].finish_reason == "length"


def test_a_listener_may_forget_the_cache_in_the_middle_of_a_step(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine._thread = threading.current_thread()
    heard = [0]

    def forget(_: Chunk) -> None:
        heard[0] += 1
        if heard[0] == 3:
            engine.weights_changed()

    requests = [engine.submit(PROMPT, replace(PARAMS, seed=i), on_chunk=forget if i == 0 else None) for i in range(3)]
    finish(engine)
    engine._thread = None
    assert engine.stats.preemptions_total == 3
    alone = run(make_engine(), [(PROMPT, replace(PARAMS, seed=i), None) for i in range(3)])
    assert_same([request.result(timeout=0) for request in requests], alone)
