"""Versions that come, go and change places while answers are being written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from tutee.engine.engine import Engine
from tutee.engine.request import Chunk, SamplingParams
from tutee.errors import InvalidInput, NotFound, Unavailable
from tutee.model.decoder import Decoder
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained

from .conftest import random_lora
from .stepping import assert_same, finish, run

MakeEngine = Callable[..., Engine]
PROMPT = list(range(40, 52))
PARAMS = SamplingParams(max_tokens=12, seed=1, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module")
def other(tiny: Pretrained) -> Pretrained:
    """The same shape with other weights."""
    decoder = Decoder(tiny.config, torch.float32)
    decoder.load_state_dict({name: weight * 0.9 for name, weight in tiny.decoder.state_dict().items()})
    return Pretrained(
        "other", tiny.folder, tiny.config, decoder, tiny.tokenizer, tiny.chat_format, "2" * 64, tiny.dtype
    )


def test_a_swap_lets_old_requests_finish_and_new_ones_wait(tiny: Pretrained, other: Pretrained) -> None:
    engine = Engine(tiny, cache_tokens=512, block_size=4)
    try:
        began = threading.Event()
        old = [engine.submit(PROMPT, PARAMS, on_chunk=lambda _: began.set()) for _ in range(3)]
        began.wait(10)
        engine.swap_base(other, "v2")
        assert all(request.done for request in old)
        new = engine.submit(PROMPT, PARAMS).result(timeout=10)
    finally:
        engine.close()
    assert [request.result().finish_reason for request in old] == ["length"] * 3
    assert new.version == "v2"


def test_old_and_new_answers_are_those_of_engines_of_their_own(
    make_engine: MakeEngine, tiny: Pretrained, other: Pretrained
) -> None:
    engine = make_engine()
    (before,) = run(engine, [(PROMPT, PARAMS, None)])
    running = engine.submit(PROMPT, PARAMS)
    engine.step()
    engine.swap_base(other, "v2")
    assert engine.versions == ("v2",)
    (after,) = run(engine, [(PROMPT, PARAMS, None)])
    assert_same([running.result(timeout=0)], [before])
    assert_same([after], run(make_engine(model=other), [(PROMPT, PARAMS, None)]))
    assert after.cached_tokens == 0
    assert after.token_ids != before.token_ids


def test_adapters_go_with_their_base(make_engine: MakeEngine, tiny: Pretrained, other: Pretrained) -> None:
    engine = make_engine()
    engine.add_version("v1", random_lora(tiny.config, 1))
    running = engine.submit(PROMPT, PARAMS, version="v1")
    engine.swap_base(other, "v2")
    assert running.result(timeout=0).version == "v1"
    with pytest.raises(NotFound):
        engine.submit(PROMPT, PARAMS, version="v1")


def test_who_waits_for_a_swap_can_give_up_within_a_step(tiny: Pretrained, other: Pretrained) -> None:
    engine = Engine(tiny, cache_tokens=512, block_size=4, autostart=False)
    engine._thread = threading.current_thread()  # The test is the engine's thread; the swap comes from another.
    old = engine.submit(PROMPT, PARAMS)
    engine.step()
    swap = threading.Thread(target=engine.swap_base, args=(other, "v2"))
    swap.start()
    while "v2" not in engine.versions:
        pass
    held, stays = engine.submit(PROMPT, PARAMS), engine.submit(PROMPT, PARAMS)
    engine.step()
    assert (engine.stats.running, engine.stats.waiting) == (1, 2)
    held.abort()
    engine.step()
    assert held.result(timeout=0).finish_reason == "abort"
    assert (engine.stats.running, engine.stats.waiting) == (1, 1)
    finish(engine)
    swap.join(10)
    assert (old.result(timeout=0).version, stays.result(timeout=0).version) == ("base", "v2")
    assert engine.stats.waiting == engine._door.waiting == 0


def test_a_closing_engine_tells_who_waits_for_a_swap(tiny: Pretrained, other: Pretrained) -> None:
    engine = Engine(tiny, cache_tokens=512, block_size=4)
    old = engine.submit(PROMPT, replace(PARAMS, max_tokens=490))
    failed: list[Exception] = []

    def swap() -> None:
        try:
            engine.swap_base(other, "v2")
        except Unavailable as error:
            failed.append(error)

    swapping = threading.Thread(target=swap)
    swapping.start()
    while "v2" not in engine.versions:
        pass
    late = engine.submit(PROMPT, PARAMS)
    engine.close()
    swapping.join(10)
    assert len(failed) == 1
    assert (old.result(timeout=0).finish_reason, late.result(timeout=0).finish_reason) == ("abort", "abort")
    assert engine._door.waiting == 0
    with pytest.raises(Unavailable):
        engine.swap_base(other, "v3")


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
