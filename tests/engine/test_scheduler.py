from __future__ import annotations

from collections.abc import Callable

from tutee.engine.engine import Engine
from tutee.engine.request import Chunk, SamplingParams

from .stepping import assert_same, finish, run, trace

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


def test_a_long_prompt_delays_streams_by_one_piece_at_most(make_engine: MakeEngine) -> None:
    """The trace of every step: whoever streams is in it with one token, and prompts get the rest of the budget."""
    engine = make_engine(max_step_tokens=24, speculation="never")
    steps = trace(engine)
    streams = [engine.submit([i + 1] * 5, SamplingParams(max_tokens=40, seed=i, ignore_eos=True)) for i in range(3)]
    engine.step()
    long = engine.submit([9] * 300, GOES_ON)
    short = engine.submit([8] * 30, GOES_ON)
    finish(engine)
    begin = next(i for i, step in enumerate(steps) if long in [request for request, _, _ in step])
    while_prompting = [step for step in steps[begin:] if any(count > 1 for _, count, _ in step)]
    assert len(while_prompting) == -(-330 // (12 - 3))
    for step in while_prompting:
        assert [count for request, count, _ in step if request in streams] == [1, 1, 1]
        assert sum(count for _, count, _ in step) <= 12
    assert sum(count for step in steps for request, count, _ in step if request is long) == 300 + 5
    assert short.done


def test_many_streams_leave_a_prompt_one_block_a_step(make_engine: MakeEngine) -> None:
    engine = make_engine(max_step_tokens=4, block_size=4, speculation="never")
    steps = trace(engine)
    for i in range(7):
        engine.submit([i + 1], SamplingParams(max_tokens=30, seed=i, ignore_eos=True))
    while len(steps) < 3:
        engine.step()
    late = engine.submit([9] * 12, GOES_ON)
    finish(engine)
    pieces = [count for step in steps for request, count, _ in step if request is late]
    assert pieces == [4, 4, 4] + [1] * 5


def owners_in_order(engine: Engine, owners: str, **more: int) -> str:
    """The owners of requests in the order in which these end; all wait, and one runs at a time."""
    order: list[str] = []

    def tell(owner: str) -> Callable[[Chunk], None]:
        return lambda chunk: order.append(owner) if chunk.finish_reason else None

    for i, owner in enumerate(owners):
        length = more.get(owner, 4)
        params = SamplingParams(max_tokens=length, seed=i, ignore_eos=True)
        engine.submit([i + 1] * length, params, owner=owner, on_chunk=tell(owner))
    finish(engine)
    return "".join(order)


def test_owners_take_turns(make_engine: MakeEngine) -> None:
    assert owners_in_order(make_engine(max_batch=1), "aaaaabbc") == "abcabaaa"


def test_an_owner_of_long_requests_gets_fewer_of_them(make_engine: MakeEngine) -> None:
    assert owners_in_order(make_engine(max_batch=1), "aaabbbbbb", a=12, b=4) == "abbbabbba"


def test_a_batch_is_filled_in_turns_too(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=4)
    requests = [engine.submit([i + 1] * 4, GOES_ON, owner="a" if i < 8 else "b") for i in range(10)]
    engine.step()
    assert [i for i, request in enumerate(requests) if request._chunks] == [0, 1, 8, 9]
    finish(engine)


def test_priority_comes_before_fairness(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    order: list[str] = []

    def tell(name: str) -> Callable[[Chunk], None]:
        return lambda chunk: order.append(name) if chunk.finish_reason else None

    engine.submit([1], GOES_ON, owner="a", on_chunk=tell("a1"))
    engine.submit([2], GOES_ON, owner="a", on_chunk=tell("a2"))
    engine.submit([3], GOES_ON, owner="b", priority=10, on_chunk=tell("b"))
    finish(engine)
    assert order == ["a1", "a2", "b"]


def test_a_turn_is_computed_again_but_charged_once(make_engine: MakeEngine) -> None:
    engine = make_engine(cache_tokens=120, block_size=4)
    requests = [
        engine.submit([i + 1] * 20, SamplingParams(max_tokens=30, seed=i, ignore_eos=True), owner="a") for i in range(4)
    ]
    while engine.step() and not all(request.done for request in requests[:-1]):
        charged = engine._stepper.scheduler._shares.served("a")
    assert engine.stats.preemptions_total > 0
    assert charged <= 4 * (20 + 2 * 30)
    finish(engine)
