from __future__ import annotations

from collections.abc import Callable

from tutee.engine.engine import Engine
from tutee.engine.request import Chunk, SamplingParams

from .stepping import assert_same, finish, run

MakeEngine = Callable[..., Engine]
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]
GOES_ON = SamplingParams(max_tokens=6, seed=1, ignore_eos=True, logprobs=0)


def test_a_batch_takes_no_more_than_it_may(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=3)
    for i in range(5):
        engine.submit([i + 1], GOES_ON)
    engine.step()
    assert (engine.stats.running, engine.stats.waiting) == (3, 2)
    finish(engine)


def test_equal_priorities_are_served_in_order_of_arrival(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    order: list[int] = []

    def tell(i: int) -> Callable[[Chunk], None]:
        return lambda chunk: order.append(i) if chunk.finish_reason else None

    for i in range(4):
        engine.submit([i + 1], GOES_ON, on_chunk=tell(i))
    finish(engine)
    assert order == [0, 1, 2, 3]


def test_who_gives_up_shared_blocks_only_takes_nobody_along(make_engine: MakeEngine) -> None:
    """Three answers to one cached prompt in four blocks: the third finds no block of its own and frees none."""
    engine = make_engine(cache_tokens=16, block_size=4)
    run(engine, [(PROMPT, SamplingParams(max_tokens=1), None)])
    asked = [(PROMPT, GOES_ON.for_sample(i), None) for i in range(3)]
    assert_same(run(engine, asked), run(make_engine(), asked))
    assert engine.stats.preemptions_total > 0
    assert engine.stats.failures_total == 0


def test_blocks_taken_from_a_worse_priority_let_a_long_prompt_in(make_engine: MakeEngine) -> None:
    engine = make_engine(cache_tokens=64, block_size=4)
    background = engine.submit([9] * 40, SamplingParams(max_tokens=10, seed=1, ignore_eos=True), priority=10)
    engine.step()
    chat = engine.submit([7] * 40, GOES_ON)
    finish(engine)
    assert engine.stats.preemptions_total == 1
    assert len(chat.result(timeout=0).token_ids) == 6
    assert len(background.result(timeout=0).token_ids) == 10


def test_a_low_priority_waits_while_the_cache_is_full(make_engine: MakeEngine) -> None:
    engine = make_engine(cache_tokens=64, block_size=4)
    engine.submit([9] * 40, GOES_ON)
    engine.step()
    engine.submit([7] * 40, GOES_ON, priority=10)
    engine.step()
    assert (engine.stats.running, engine.stats.waiting) == (1, 1)
    finish(engine)
    assert engine.stats.preemptions_total == 0
