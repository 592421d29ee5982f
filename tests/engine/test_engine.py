"""What a caller sees of a running engine: ends, refusals, failures, versions, groups, turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tutee.engine.engine import Engine
from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.engine.sampler import Sampled
from tutee.engine.scheduler import Scheduled
from tutee.errors import Busy, InvalidInput, NotFound, Unavailable
from tutee.model.decoder import Decoder
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained

from .conftest import END, VOCABULARY, random_lora
from .stepping import assert_same, finish, run

MakeEngine = Callable[..., Engine]
PROMPT = list(range(40, 52))
LONG = SamplingParams(max_tokens=50, seed=1, ignore_eos=True)


def force(token: int) -> dict[int, float]:
    return {token: 100.0}


def test_one_chunk_a_step_and_the_last_says_why(make_engine: MakeEngine) -> None:
    engine = make_engine()
    chunks: list[Chunk] = []
    request = engine.submit(PROMPT, SamplingParams(max_tokens=5, seed=1, ignore_eos=True), on_chunk=chunks.append)
    for step in range(1, 6):
        engine.step()
        assert len(chunks) == step
    assert [len(chunk.token_ids) for chunk in chunks] == [1] * 5
    assert [chunk.finish_reason for chunk in chunks] == [None] * 4 + ["length"]
    assert {chunk.version for chunk in chunks} == {"base"}
    assert request.result(timeout=0).token_ids == tuple(token for chunk in chunks for token in chunk.token_ids)


def test_an_end_token_stops_and_is_not_text(make_engine: MakeEngine) -> None:
    (result,) = run(make_engine(), [(PROMPT, SamplingParams(logit_bias=force(END), logprobs=0), None)])
    assert (result.token_ids, result.text, result.finish_reason) == ((END,), "", "stop")
    assert len(result.logprobs) == 1


def test_min_tokens_delays_the_end(make_engine: MakeEngine) -> None:
    params = SamplingParams(logit_bias=force(END), min_tokens=4, max_tokens=9)
    (result,) = run(make_engine(), [(PROMPT, params, None)])
    assert len(result.token_ids) == 5
    assert result.token_ids.index(END) == 4


def test_ignore_eos_goes_on(make_engine: MakeEngine) -> None:
    params = SamplingParams(logit_bias=force(END), ignore_eos=True, max_tokens=6)
    (result,) = run(make_engine(), [(PROMPT, params, None)])
    assert (result.token_ids, result.finish_reason) == ((END,) * 6, "length")


def test_a_stop_string_across_tokens(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    free = SamplingParams(max_tokens=30, seed=4, logit_bias=dict.fromkeys(range(94, 256), -100.0))
    (whole,) = run(engine, [(PROMPT, free, None)])
    stop = whole.text[10:13]
    at = whole.text.index(stop)
    params = SamplingParams(max_tokens=30, seed=4, logit_bias=free.logit_bias, stop=(stop,))
    (result,) = run(engine, [(PROMPT, params, None)])
    assert (result.text, result.finish_reason) == (whole.text[:at], "stop")
    assert result.token_ids == whole.token_ids[: at + 3]


def test_streamed_text_is_the_text_of_the_tokens(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    asked = [(PROMPT, SamplingParams(max_tokens=60, seed=seed), None) for seed in range(8)]
    for result in run(engine, asked):
        assert result.text == tiny.tokenizer.decode(result.token_ids)


def test_top_logprobs_hold_the_greedy_token(make_engine: MakeEngine) -> None:
    (result,) = run(make_engine(), [(PROMPT, SamplingParams(temperature=0, max_tokens=4, logprobs=3), None)])
    for token, logprob, top in zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True):
        assert len(top) == 3
        assert top[0] == (token, logprob)


def test_the_context_ends_the_answer(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    length = tiny.config.max_position_embeddings
    assert engine.context_length == length
    (result,) = run(engine, [([1] * (length - 3), SamplingParams(ignore_eos=True), None)])
    assert (len(result.token_ids), result.finish_reason) == (3, "length")
    with pytest.raises(InvalidInput) as caught:
        engine.submit([1] * length, SamplingParams())
    assert caught.value.code == "context_length_exceeded"
    small = make_engine(cache_tokens=32)
    (result,) = run(small, [([1] * 20, SamplingParams(ignore_eos=True), None)])
    assert len(result.token_ids) == 12


@pytest.mark.parametrize(
    ("prompt", "params", "version", "error"),
    [
        ([], SamplingParams(), None, InvalidInput),
        ([VOCABULARY], SamplingParams(), None, InvalidInput),
        ([-1], SamplingParams(), None, InvalidInput),
        ([1], SamplingParams(logit_bias={VOCABULARY: 1.0}), None, InvalidInput),
        ([1], SamplingParams(), "nobody", NotFound),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    make_engine: MakeEngine, prompt: list[int], params: SamplingParams, version: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_engine().submit(prompt, params, version=version)


def test_a_full_queue_is_busy(make_engine: MakeEngine) -> None:
    engine = make_engine(max_waiting=2, max_batch=1)
    for _ in range(2):
        engine.submit(PROMPT, SamplingParams(max_tokens=2))
    with pytest.raises(Busy):
        engine.submit(PROMPT, SamplingParams(max_tokens=2))
    engine.step()
    engine.submit(PROMPT, SamplingParams(max_tokens=2))
    finish(engine)


def test_abort_frees_blocks_within_one_step(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    running, waiting = engine.submit(PROMPT, LONG), engine.submit(PROMPT, LONG)
    engine.step()
    assert engine.stats.blocks_used > 0
    running.abort()
    waiting.abort()
    assert not engine.step()
    assert (engine.stats.running, engine.stats.waiting, engine.stats.blocks_used) == (0, 0, 0)
    assert running.result(timeout=0).finish_reason == "abort"
    assert len(running.result().token_ids) == 1
    assert waiting.result(timeout=0).token_ids == ()


def test_abort_in_the_middle_of_a_prompt_leaves_nothing_half_cached(make_engine: MakeEngine) -> None:
    engine = make_engine(max_step_tokens=6, block_size=4)
    request = engine.submit(PROMPT, LONG)
    engine.step()
    request.abort()
    assert not engine.step()
    params = SamplingParams(max_tokens=3, seed=2, logprobs=0)
    (after,), (fresh,) = run(engine, [(PROMPT, params, None)]), run(make_engine(), [(PROMPT, params, None)])
    assert after.cached_tokens == 4
    assert (after.token_ids, after.logprobs) == (fresh.token_ids, fresh.logprobs)


def test_better_priority_goes_first_and_takes_the_place_of_a_worse(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    order: list[str] = []

    def tell(name: str) -> Callable[[Chunk], None]:
        return lambda chunk: order.append(name) if chunk.finish_reason else None

    short = SamplingParams(max_tokens=3)
    engine.submit(PROMPT, SamplingParams(max_tokens=12, ignore_eos=True), priority=10, on_chunk=tell("rollout"))
    engine.step()
    engine.submit(PROMPT, short, priority=10, on_chunk=tell("second rollout"))
    engine.submit(PROMPT, short, on_chunk=tell("chat"))
    finish(engine)
    assert order == ["chat", "rollout", "second rollout"]


def test_a_stream_gets_a_token_every_step_beside_a_long_prompt(make_engine: MakeEngine) -> None:
    engine = make_engine(max_step_tokens=16)
    chunks: list[Chunk] = []
    engine.submit(PROMPT, LONG, on_chunk=chunks.append)
    engine.step()
    engine.submit([3] * 200, LONG)
    for step in range(2, 12):
        engine.step()
        assert len(chunks) == step


def test_a_group_computes_its_prompt_once(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=16, max_step_tokens=16, block_size=4)
    prompt = [(5 * i) % 256 for i in range(41)]
    computed: list[int] = []
    forward = engine._model.decoder.register_forward_pre_hook(lambda _, args: computed.append(len(args[0])))
    try:
        (group,) = engine.generate([prompt], SamplingParams(max_tokens=1, seed=9), n=8)
    finally:
        forward.remove()
    assert [result.cached_tokens for result in group] == [0] + [40] * 7
    assert sum(computed) == 41 + 7
    assert len({result.token_ids for result in group}) > 1


def test_generate_keeps_order_and_tells_progress(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=2)
    seen: list[tuple[int, int]] = []
    prompts = [[i + 1] * (i + 1) for i in range(7)]
    params = [SamplingParams(max_tokens=7 - i, seed=i, ignore_eos=True) for i in range(7)]
    results = engine.generate(prompts, params, n=2, progress=lambda done, total: seen.append((done, total)))
    assert [[len(result.token_ids) for result in group] for group in results] == [[7 - i] * 2 for i in range(7)]
    assert [group[0].prompt_tokens for group in results] == [1, 2, 3, 4, 5, 6, 7]
    assert seen[-1] == (14, 14)
    assert engine.generate(prompts[:1], params[0])[0][0].token_ids == results[0][0].token_ids
    with pytest.raises(InvalidInput):
        engine.generate(prompts, params[:2])


def test_the_next_turn_finds_prompt_and_answer_in_the_cache(make_engine: MakeEngine) -> None:
    engine = make_engine(block_size=4)
    (first,) = run(engine, [(PROMPT, SamplingParams(max_tokens=20, seed=3, ignore_eos=True), None)])
    turn = PROMPT + list(first.token_ids) + [10, 11, 12]
    (second,) = run(engine, [(turn, SamplingParams(max_tokens=2), None)])
    # The answer's last token was never computed: 12 + 19 tokens were, in whole blocks 28.
    assert second.cached_tokens == 28


@pytest.mark.row(30)
def test_weights_changed_forgets_the_cache(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    params = SamplingParams(max_tokens=8, temperature=0, logprobs=0, ignore_eos=True)
    (before,) = run(engine, [(PROMPT, params, None)])
    weight = tiny.decoder.get_parameter("model.layers.0.self_attn.v_proj.weight")
    original = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(-1.0)
        engine.weights_changed()
        (after,) = run(engine, [(PROMPT, params, None)])
        (fresh,) = run(make_engine(), [(PROMPT, params, None)])
    finally:
        with torch.no_grad():
            weight.copy_(original)
    assert after.cached_tokens == 0
    assert (after.token_ids, after.logprobs) == (fresh.token_ids, fresh.logprobs)
    assert after.logprobs != before.logprobs


def test_versions_come_and_go_between_steps(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    lora = random_lora(tiny.config, 1)
    engine.add_version("v1", lora)
    assert engine.versions == ("base", "v1")
    with pytest.raises(InvalidInput):
        engine.add_version("v1", lora)
    running = engine.submit(PROMPT, LONG, version="v1")
    engine.step()
    engine.remove_version("v1")
    assert engine.versions == ("base",)
    with pytest.raises(NotFound) as caught:
        engine.submit(PROMPT, LONG, version="v1")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFound):
        engine.remove_version("v1")
    with pytest.raises(InvalidInput):
        engine.remove_version("base")
    finish(engine)
    assert running.result(timeout=0).finish_reason == "length"
    assert running.result().version == "v1"


def test_a_failing_step_ends_its_requests_and_nothing_else(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine(max_batch=4)
    other = replace(tiny.config, hidden_size=tiny.config.hidden_size * 2)
    engine.add_version("of another model", Lora(other))
    bad = engine.submit(PROMPT, LONG, version="of another model")
    finish(engine)
    assert bad.result(timeout=0).finish_reason == "error"
    assert bad.error is not None
    assert run(engine, [(PROMPT, LONG, None)])[0].finish_reason == "length"
    with pytest.raises(Unavailable):
        engine.generate([PROMPT], LONG, version="of another model")


def test_numbers_that_are_not_finite_end_their_request_only(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine()
    lora = random_lora(tiny.config, 1)
    with torch.no_grad():
        next(iter(lora.parameters())).fill_(float("nan"))
    engine.add_version("diverged", lora)
    bad, good = run(engine, [(PROMPT, LONG, "diverged"), (PROMPT, LONG, None)])
    assert (bad.finish_reason, good.finish_reason) == ("error", "length")


def test_what_was_finite_before_stays_in_the_cache(make_engine: MakeEngine, tiny: Pretrained) -> None:
    config = replace(tiny.config, tie_word_embeddings=False)
    decoder = Decoder(config, torch.float32)
    decoder.load_state_dict(tiny.decoder.state_dict() | {"lm_head.weight": tiny.decoder.head_weight})
    with torch.no_grad():
        decoder.model.embed_tokens.weight[7] = float("nan")
    engine = make_engine(model=replace(tiny, config=config, decoder=decoder))
    plain = SamplingParams(max_tokens=10, seed=1, ignore_eos=True, logit_bias={7: -100.0}, logprobs=0)
    wanted = run(engine, [(PROMPT, plain, None)])
    engine.weights_changed()
    (bad,) = run(engine, [(PROMPT, replace(plain, logit_bias=force(7)), None)])
    assert (bad.token_ids, bad.finish_reason) == ((7,), "error")
    again = run(engine, [(PROMPT, plain, None)])
    assert again[0].cached_tokens > 0
    assert_same(again, wanted)


def with_faults(engine: Engine, hits: Callable[[list[Scheduled]], bool]) -> None:
    """From now on a step that `hits` is true of fails before it computes anything."""
    runner = engine._stepper.runner
    whole = runner.run

    def run(work: list[Scheduled]) -> tuple[list[Scheduled], Sampled]:
        if hits(work):
            raise RuntimeError("something nobody thought of")
        return whole(work)

    runner.run = run  # type: ignore[method-assign]


def test_whose_part_fails_alone_ends_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    asked = [([9, *PROMPT][place:], replace(LONG, seed=place, logprobs=0), None) for place in range(3)]
    wanted = run(engine, asked)
    engine.weights_changed()
    with_faults(engine, lambda work: any(item.sequence.tokens[0] == 9 for item in work))
    bad, *good = run(engine, asked)
    assert (bad.token_ids, bad.finish_reason) == ((), "error")
    assert_same(good, wanted[1:])
    assert engine.stats.failures_total == 1


def test_a_step_that_only_fails_in_company_is_done_one_by_one(make_engine: MakeEngine) -> None:
    """As where memory suffices for one request and not for all."""
    engine = make_engine()
    asked = [([9, *PROMPT][place:], replace(LONG, seed=place, logprobs=0), None) for place in range(3)]
    wanted = run(engine, asked)
    engine.weights_changed()
    with_faults(engine, lambda work: len(work) > 1)
    assert_same(run(engine, asked), wanted)
    assert engine.stats.failures_total == 0


def test_a_callback_that_raises_ends_its_request_only(make_engine: MakeEngine) -> None:
    engine = make_engine()

    def broken(chunk: Chunk) -> None:
        raise RuntimeError("the listener is gone")

    bad, good = engine.submit(PROMPT, LONG, on_chunk=broken), engine.submit(PROMPT, LONG)
    finish(engine)
    assert bad.result(timeout=0).finish_reason == "error"
    assert good.result(timeout=0).finish_reason == "length"


def test_the_thread_serves_many_callers_and_closes(tiny: Pretrained) -> None:
    engine = Engine(tiny, max_batch=4, cache_tokens=1024)
    results: list[str] = []

    def chat(seed: int) -> None:
        request = engine.submit(PROMPT, SamplingParams(max_tokens=10, seed=seed, ignore_eos=True))
        results.append("".join(chunk.text for chunk in request) and request.result().finish_reason)

    callers = [threading.Thread(target=chat, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    engine.weights_changed()
    for caller in callers:
        caller.join(timeout=60)
    assert results == ["length"] * 8
    running = engine.submit(PROMPT, SamplingParams(ignore_eos=True))
    next(iter(running))
    engine.close()
    assert running.result(timeout=60).finish_reason in ("abort", "length")
    with pytest.raises(Unavailable):
        engine.submit(PROMPT, LONG)
    with pytest.raises(Unavailable):
        engine.weights_changed()
    engine.close()


def test_an_idle_thread_wakes_at_once_and_sleeps_otherwise(tiny: Pretrained) -> None:
    engine = Engine(tiny, cache_tokens=512)
    try:
        engine.generate([PROMPT], SamplingParams(max_tokens=1))
        assert engine._thread is not None
        assert engine._thread.ident is not None
        clock = time.pthread_getcpuclockid(engine._thread.ident)  # whatever else this process does
        used, steps = time.clock_gettime(clock), engine.stats.steps_total
        time.sleep(0.2)
        assert engine.stats.steps_total == steps
        assert time.clock_gettime(clock) - used < 0.1
        assert engine.submit(PROMPT, SamplingParams(max_tokens=1)).result(timeout=60).ttft_s is not None
    finally:
        engine.close()


# Shrinking a failure would take many minutes; the failing list of requests is printed as it is.
RANDOM_ONLY = (Phase.explicit, Phase.reuse, Phase.generate)

asks = st.fixed_dictionaries(
    {
        "length": st.integers(1, 50),
        "max_tokens": st.integers(1, 16),
        "priority": st.sampled_from([0, 0, 10]),
        "version": st.sampled_from([None, None, "v1", "diverged"]),
        "stop": st.sampled_from([(), ("a", "bc")]),
        "temperature": st.sampled_from([0.0, 1.0]),
        "steps_before": st.integers(0, 4),
        "abort_after": st.one_of(st.none(), st.none(), st.integers(0, 10)),
    }
)


@settings(
    max_examples=16,
    deadline=None,
    phases=RANDOM_ONLY,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(work=st.lists(asks, min_size=8, max_size=24), step_tokens=st.sampled_from([3, 16, 64]))
def test_random_requests_leave_nothing_behind(
    tiny: Pretrained, work: list[dict[str, object]], step_tokens: int
) -> None:
    engine = Engine(tiny, max_batch=5, cache_tokens=120, block_size=4, max_step_tokens=step_tokens, autostart=False)
    diverged = random_lora(tiny.config, 2)
    with torch.no_grad():
        next(iter(diverged.parameters())).fill_(float("nan"))
    engine.add_version("v1", random_lora(tiny.config, 1))
    engine.add_version("diverged", diverged)
    asked: list[tuple[Request, dict[str, Any]]] = []
    for i, ask in enumerate(work):
        params = SamplingParams(
            max_tokens=ask["max_tokens"],
            stop=ask["stop"],
            temperature=ask["temperature"],
            seed=i,
        )
        prompt = [(i % 3 + k) % 256 for k in range(ask["length"])]
        request = engine.submit(prompt, params, version=ask["version"], priority=ask["priority"])
        asked.append((request, ask))
        for _ in range(ask["steps_before"]):
            engine.step()
            for other, wish in asked:
                if wish["abort_after"] is not None and len(other._chunks) >= wish["abort_after"]:
                    other.abort()
    finish(engine)
    stats = engine.stats
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert engine._pool.available == engine._pool.capacity
    for request, ask in asked:
        reason = request.result(timeout=0).finish_reason
        assert reason in ("stop", "length", "abort", "error")
        if ask["version"] == "diverged":
            assert reason in ("error", "abort")
        else:
            assert reason != "error", f"{ask} failed: {request.error}"
