"""An engine that sleeps gives its memory back, and answers as before when it is asked again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.errors import Unavailable
from tutee.model.pretrained import Pretrained, load_pretrained

from .conftest import random_lora
from .stepping import assert_same, finish, run

MakeEngine = Callable[..., Engine]
PROMPT = list(range(40, 75))
PARAMS = SamplingParams(max_tokens=12, seed=1, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module")
def fast(tiny_folder: Path) -> Pretrained:
    return load_pretrained(tiny_folder, "bfloat16")


@pytest.mark.parametrize("precision", ["", "int8"])
@pytest.mark.parametrize("block_size", [32, 8])  # in C where the machine can, and in PyTorch
def test_asleep_nothing_is_kept_and_awake_answers_are_the_same(
    make_engine: MakeEngine, fast: Pretrained, precision: str, block_size: int
) -> None:
    engine = make_engine(model=fast, precision=precision, block_size=block_size)
    engine.add_version("v1", random_lora(fast.config, 1))
    asked = [(PROMPT, PARAMS, None), (PROMPT, PARAMS, "v1")]
    before = run(engine, asked)
    runner = engine._stepper.runner
    held: list[weakref.ref[Any]] = [weakref.ref(stored) for stored in (*runner.cache.keys, *runner.cache.values)]
    for native in (fast.decoder._native, runner._served._native):
        if native is not None and native._tiles is not None:
            held += [weakref.ref(native._tiles), weakref.ref(native._workspace)]
    for head in (fast.decoder._native_head, runner._served._head):
        if head is not None and head._tiles is not None:
            held.append(weakref.ref(head._tiles))
    engine.sleep()
    gc.collect()
    assert [one() for one in held] == [None] * len(held)
    assert engine.stats.blocks_cached == 0
    again = run(engine, asked)
    assert_same(again, before)
    assert again[0].cached_tokens == 0


def test_who_was_interrupted_goes_on(make_engine: MakeEngine, tiny: Pretrained) -> None:
    (alone,) = run(make_engine(), [(PROMPT, PARAMS, None)])
    engine = make_engine()
    running = engine.submit(PROMPT, PARAMS)
    for _ in range(4):
        engine.step()
    engine.sleep()
    finish(engine)
    assert_same([running.result(timeout=0)], [alone])
    assert engine.stats.preemptions_total == 1


def test_asleep_and_awake_by_the_thread_of_an_engine(tiny: Pretrained) -> None:
    engine = Engine(tiny, cache_tokens=512, block_size=4)
    try:
        before = engine.generate([PROMPT], PARAMS)[0]
        engine.sleep()
        assert engine._stepper.runner.cache.nbytes == 0
        engine.sleep()
        engine.wake()
        assert engine._stepper.runner.cache.nbytes > 0
        engine.wake()
        assert_same(engine.generate([PROMPT], PARAMS)[0], before)
    finally:
        engine.close()
    with pytest.raises(Unavailable):
        engine.sleep()


def test_weights_that_changed_in_the_sleep_are_packed_again(make_engine: MakeEngine, tiny_folder: Path) -> None:
    model = load_pretrained(tiny_folder, "bfloat16")
    engine = make_engine(model=model, block_size=32)
    (before,) = engine.generate([PROMPT], replace(PARAMS, temperature=0.0))[0]
    engine.sleep()
    for weight in model.decoder.parameters():
        weight.mul_(0.5)
    (after,) = engine.generate([PROMPT], replace(PARAMS, temperature=0.0))[0]
    fresh = make_engine(model=model, block_size=32)
    assert_same([after], fresh.generate([PROMPT], replace(PARAMS, temperature=0.0))[0])
    assert after.logprobs != before.logprobs
