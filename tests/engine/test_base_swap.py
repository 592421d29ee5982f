"""Versions that come, go and change places while answers are being written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.errors import NotFound, Unavailable
from tutee.model.decoder import Decoder
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


def test_more_adapters_than_fit_take_turns(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine(max_adapters=2)
    answers = {}
    for i in range(4):
        engine.add_version(f"v{i}", random_lora(tiny.config, i))
        (answers[i],) = run(engine, [(PROMPT, PARAMS, f"v{i}")])
    assert engine.versions == ("base", "v2", "v3")
    engine.add_version("v0", random_lora(tiny.config, 0))
    assert engine.versions == ("base", "v3", "v0")
    assert_same(run(engine, [(PROMPT, PARAMS, "v0")]), [answers[0]])
    running = engine.submit(PROMPT, PARAMS, version="v3")
    for i in (1, 2):
        engine.add_version(f"v{i}", random_lora(tiny.config, i))
    assert "v3" not in engine.versions
    finish(engine)
    assert_same([running.result(timeout=0)], [answers[3]])
