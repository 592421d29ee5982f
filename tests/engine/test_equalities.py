"""The same answer however it was computed: alone or in company, at once or in pieces, from the cache or not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.model.decoder import Decoder
from tutee.model.logprobs import score
from tutee.model.lora import Lora, merge
from tutee.model.pretrained import Pretrained

from .conftest import random_lora
from .stepping import Asked, assert_same, finish, run, run_alone

MakeEngine = Callable[..., Engine]
STYLES = (
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 20, "min_p": 0.01},
    {"temperature": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
)


def asked_of(prompts: list[list[int]], **more: object) -> list[Asked]:
    """Every prompt with a seed and a style of its own."""
    base = {"max_tokens": 14, "logprobs": 0, "ignore_eos": True}
    return [
        (prompt, SamplingParams(**{**base, "seed": i, **STYLES[i % len(STYLES)], **more}), None)  # type: ignore[arg-type]
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.row(3)
def test_batched_is_alone(make_engine: MakeEngine, prompts: list[list[int]]) -> None:
    asked = asked_of(prompts)
    assert_same(run(make_engine(), asked), run_alone(make_engine(), asked))


@pytest.mark.row(3, 4)
def test_any_order(make_engine: MakeEngine, prompts: list[list[int]]) -> None:
    asked = asked_of(prompts)
    order = random.Random(1).sample(range(len(asked)), len(asked))
    shuffled = run(make_engine(), [asked[i] for i in order])
    assert_same([shuffled[order.index(i)] for i in range(len(asked))], run(make_engine(), asked))


def test_arriving_one_by_one_is_arriving_together(make_engine: MakeEngine, prompts: list[list[int]]) -> None:
    asked = asked_of(prompts)
    engine = make_engine(max_batch=3)
    requests = []
    for prompt, params, version in asked:
        requests.append(engine.submit(prompt, params, version=version))
        engine.step()
    finish(engine)
    assert_same([request.result(timeout=0) for request in requests], run(make_engine(), asked))


@pytest.mark.row(3)
@pytest.mark.parametrize("max_step_tokens", [1, 5, 16])
def test_prefill_in_pieces_is_prefill_at_once(
    make_engine: MakeEngine, prompts: list[list[int]], max_step_tokens: int
) -> None:
    asked = asked_of(prompts)
    assert_same(run(make_engine(max_step_tokens=max_step_tokens), asked), run(make_engine(max_step_tokens=999), asked))


@pytest.mark.row(3)
@pytest.mark.parametrize("length", range(1, 14))
def test_a_prefix_from_the_cache_is_a_prefix_computed(make_engine: MakeEngine, length: int) -> None:
    engine = make_engine(block_size=4)
    prompt = [(7 * i) % 256 for i in range(length)]
    asked = asked_of([prompt])
    first, second = run(engine, asked), run(engine, asked)
    assert first[0].cached_tokens == 0
    assert second[0].cached_tokens == min(length // 4 * 4, length - 1)
    assert_same(first, second)
    longer = asked_of([[*prompt, 5, 6, 7]])
    assert_same(run(engine, longer), run(make_engine(), longer))


def test_a_whole_cached_prompt_leaves_its_blocks_as_they_were(make_engine: MakeEngine) -> None:
    engine = make_engine(block_size=4)
    asked = asked_of([list(range(8))])
    run(engine, asked)
    before = [keys.clone() for keys in engine._stepper.runner.cache.keys]
    held = [b for b in range(1, engine._pool.capacity + 1) if engine._pool._blocks[b].key is not None]
    run(engine, asked)
    for old, new in zip(before, engine._stepper.runner.cache.keys, strict=True):
        rows = [4 * block + offset for block in held for offset in range(4)]
        assert torch.equal(old[rows], new[rows])


def test_preempted_is_not_preempted(make_engine: MakeEngine, prompts: list[list[int]]) -> None:
    asked = asked_of(prompts, max_tokens=40)
    small, large = make_engine(cache_tokens=120), make_engine()
    assert_same(run(small, asked), run(large, asked))
    assert small.stats.preemptions_total > 0
    assert large.stats.preemptions_total == 0


@pytest.fixture
def loras(tiny: Pretrained) -> dict[str, Lora]:
    return {"one": random_lora(tiny.config, 1), "two": random_lora(tiny.config, 2)}


def mixed(prompts: list[list[int]]) -> list[Asked]:
    names = (None, "one", "two", "one")
    return [(prompt, params, names[i % 4]) for i, (prompt, params, _) in enumerate(asked_of(prompts))]


def test_adapters_mixed_are_adapters_alone(
    make_engine: MakeEngine, prompts: list[list[int]], loras: dict[str, Lora]
) -> None:
    together, alone = make_engine(), make_engine()
    for name, lora in loras.items():
        together.add_version(name, lora)
        alone.add_version(name, lora)
    results = run(together, mixed(prompts))
    assert_same(results, run_alone(alone, mixed(prompts)))
    assert {result.version for result in results} == {"base", "one", "two"}


@pytest.mark.row(31)
def test_an_adapter_is_its_merged_weights(
    make_engine: MakeEngine, tiny: Pretrained, prompts: list[list[int]], loras: dict[str, Lora]
) -> None:
    engine = make_engine(max_batch=24)
    engine.add_version("one", loras["one"])
    decoder = Decoder(tiny.config, torch.float32)
    decoder.load_state_dict(merge(tiny.decoder.state_dict(), loras["one"]))
    merged = Pretrained(
        tiny.name, tiny.folder, tiny.config, decoder, tiny.tokenizer, tiny.chat_format, "1" * 64, tiny.dtype
    )
    engine.add_version("two", loras["two"])
    asked = asked_of(prompts)
    company = [(prompt, params, name) for name in ("two", None) for prompt, params, _ in asked]
    results = run(engine, company[:8] + [(prompt, params, "one") for prompt, params, _ in asked] + company[8:])
    adapted, plain = results[8:16], results[16:]
    assert_same(adapted, run(make_engine(model=merged), asked), tolerance=2e-4)
    assert [result.token_ids for result in adapted] != [result.token_ids for result in plain]


@pytest.mark.row(30)
def test_equal_prompts_of_different_versions_do_not_share(make_engine: MakeEngine, loras: dict[str, Lora]) -> None:
    engine = make_engine()
    engine.add_version("one", loras["one"])
    prompt = list(range(16))
    (params,) = [params for _, params, _ in asked_of([prompt])]
    run(engine, [(prompt, params, None)])
    assert run(engine, [(prompt, params, "one")])[0].cached_tokens == 0


@settings(max_examples=15, deadline=None)
@given(company=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), max_size=6), seed=st.integers(0, 2**40))
def test_a_seed_gives_the_same_text_in_any_company(tiny: Pretrained, company: list[tuple[int, int]], seed: int) -> None:
    prompt = [1, 2, 3, 4, 5, 6]
    asked: Asked = (prompt, SamplingParams(seed=seed, max_tokens=12, logprobs=0), None)
    others: list[Asked] = [(list(range(length)), SamplingParams(max_tokens=tokens), None) for length, tokens in company]
    engine = Engine(tiny, max_batch=4, cache_tokens=512, block_size=4, autostart=False)
    alone = run(engine, [asked])
    crowd = run(engine, [*others[::2], asked, *others[1::2]])
    assert_same([crowd[len(others[::2])]], alone)


@pytest.mark.row(1)
@pytest.mark.parametrize("version", [None, "one"])
@pytest.mark.parametrize("cached", [False, True])
def test_sampled_logprobs_are_the_scored_ones(
    make_engine: MakeEngine,
    tiny: Pretrained,
    prompts: list[list[int]],
    loras: dict[str, Lora],
    version: str | None,
    cached: bool,
) -> None:
    engine = make_engine(max_step_tokens=20)
    engine.add_version("one", loras["one"])
    asked = [(prompt, params, version) for prompt, params, _ in asked_of(prompts)]
    results = run(engine, asked)
    if cached:
        results = run(engine, asked)
        assert sum(result.cached_tokens for result in results) > 50
    lora = loras["one"] if version else None
    whole = [prompt + list(result.token_ids) for prompt, result in zip(prompts, results, strict=True)]
    for result, scored in zip(results, score(tiny.decoder, whole, lora), strict=True):
        again = scored[-len(result.token_ids) :]
        assert (again - torch.tensor(result.logprobs)).abs().max() <= 1e-6
