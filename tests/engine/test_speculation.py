"""Guessing changes when a token comes, never which; and it stops where it does not pay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.engine.speculation import Speculation
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained

from .conftest import random_lora
from .stepping import Asked, assert_same, finish, run, trace

MakeEngine = Callable[..., Engine]
FEW = dict.fromkeys((10, 11, 12), 12.0)
"""A bias that leaves three likely tokens, so that guesses are right about as often as wrong."""
STYLES = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 3},
    {"temperature": 1.0, "frequency_penalty": 0.3, "presence_penalty": 0.2, "repetition_penalty": 1.1},
    {"temperature": 1.0, "min_tokens": 9, "ignore_eos": False},
)


def repetitive(count: int = 12, **more: object) -> list[Asked]:
    """Prompts that repeat themselves, over a few likely tokens, in every style."""
    asked: list[Asked] = []
    for i in range(count):
        base = {"max_tokens": 40, "logprobs": 2, "ignore_eos": True, "logit_bias": FEW, "seed": i}
        params = SamplingParams(**{**base, **STYLES[i % len(STYLES)], **more})  # type: ignore[arg-type]
        asked.append(([10, 11, 12, 10, 12, 11] * (1 + i % 3) + [i], params, None))
    return asked


def test_speculative_is_plain_token_for_token(make_engine: MakeEngine) -> None:
    plain, guessing = make_engine(speculation="never"), make_engine(speculation="always")
    left, right = run(guessing, repetitive()), run(plain, repetitive())
    assert_same(left, right)
    assert [a.top_logprobs for a in left] == [b.top_logprobs for b in right]
    stats = guessing.stats
    assert 100 < stats.accepted_tokens_total < stats.guessed_tokens_total
    assert stats.generated_tokens_total == plain.stats.generated_tokens_total
    assert plain.stats.guessed_tokens_total == 0


@pytest.mark.parametrize("cache_tokens", [120, 200])
@pytest.mark.parametrize("max_step_tokens", [5, 64])
def test_speculative_is_plain_when_preempted_and_in_pieces(
    make_engine: MakeEngine, tiny: Pretrained, cache_tokens: int, max_step_tokens: int
) -> None:
    guessing = make_engine(
        speculation="always", cache_tokens=cache_tokens, block_size=4, max_step_tokens=max_step_tokens, max_batch=6
    )
    plain = make_engine(speculation="never", cache_tokens=4096, max_batch=1)
    asked = [(prompt, params, ("one", None)[i % 2]) for i, (prompt, params, _) in enumerate(repetitive())]
    for engine in (guessing, plain):
        engine.add_version("one", random_lora(tiny.config, 1))
    assert_same(run(guessing, asked), run(plain, asked))
    assert guessing.stats.preemptions_total > 0
    assert guessing.stats.accepted_tokens_total > 0


def test_ends_within_a_guess_are_the_plain_ends(make_engine: MakeEngine) -> None:
    plain, guessing = make_engine(speculation="never"), make_engine(speculation="always")
    whole = run(plain, repetitive())
    for i, result in enumerate(whole):
        stop = result.text[10:13]
        for more in ({"stop": (stop,)}, {"max_tokens": 9}, {"logit_bias": FEW | {257: 10.0}, "ignore_eos": False}):
            asked = [repetitive(**more)[i]]
            assert_same(run(guessing, asked), run(plain, asked))
    assert guessing.stats.accepted_tokens_total > 100


def test_a_guessed_answer_is_found_in_the_cache_as_a_plain_one(make_engine: MakeEngine) -> None:
    results = []
    for mode in ("never", "always"):
        engine = make_engine(speculation=mode, block_size=4)
        prompt, params, _ = repetitive()[0]
        (first,) = run(engine, [(prompt, params, None)])
        (second,) = run(engine, [([*prompt, *first.token_ids, 5, 6], params, None)])
        results.append(second)
    assert_same(results[:1], results[1:])
    assert results[0].cached_tokens == results[1].cached_tokens >= 40


def test_the_seeds_are_the_models_distribution(make_engine: MakeEngine, tiny: Pretrained) -> None:
    """The first four tokens over many seeds against their exact probabilities; where the first is an 11, the next two
    are guessed to be 11 and 10."""
    count, likely = 2500, (10, 11, 12)
    prompt = [10, 11, 12, 7, 8, 12, 11, 11, 10, 9, 7, 9, 8, 12]
    bias = {10: 14.0, 11: 15.5, 12: 14.0}
    engine = make_engine(speculation="always", max_batch=count, cache_tokens=65536, max_step_tokens=8192)
    params = [SamplingParams(max_tokens=4, logit_bias=bias, seed=seed, ignore_eos=True) for seed in range(count)]
    found = Counter(group[0].token_ids for group in engine.generate([prompt] * count, params))
    assert count / 10 < engine.stats.accepted_tokens_total < 0.9 * engine.stats.guessed_tokens_total

    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(4):
        longer = {}
        for cell, probability in expected.items():
            following = distribution(tiny, [*prompt, *cell], bias)
            longer |= {(*cell, token): probability * float(following[token]) for token in likely}
        expected = longer
    cells = sorted(expected, key=lambda cell: -expected[cell])[:20]
    observed = np.array([found[cell] for cell in cells] + [count - sum(found[cell] for cell in cells)])
    wanted = np.array([expected[cell] for cell in cells] + [1 - sum(expected[cell] for cell in cells)]) * count
    assert chisquare(observed, wanted).pvalue > 1e-3


@torch.no_grad()
def distribution(model: Pretrained, tokens: list[int], bias: dict[int, float]) -> torch.Tensor:
    layout = Layout.packed([len(tokens)])
    hidden = model.decoder(torch.tensor(tokens), layout.positions, layout)[-1:]
    logits = model.decoder.logits(hidden)[0].double()
    for token, amount in bias.items():
        logits[token] += amount
    return logits.softmax(-1)


def test_guesses_wait_while_a_prompt_is_computed(make_engine: MakeEngine) -> None:
    engine = make_engine(speculation="always", max_step_tokens=8)
    steps = trace(engine)
    (prompt, params, _), *_ = repetitive()
    engine.submit(prompt, params)
    for _ in range(12):
        engine.step()
    engine.submit(list(range(100, 160)), params)
    finish(engine)
    assert any(guessed for step in steps for _, _, guessed in step)
    for step in steps:
        if any(count > 1 + guessed for _, count, guessed in step):
            assert not any(guessed for _, _, guessed in step)


class Stream:
    """A stand-in for a stream: its tokens, its limit and its record are all that is looked at."""

    def __init__(self, chance: float) -> None:
        self.tokens = [1, 2, 3, 4] * 5
        self.max_length = 1000
        self.lookup = self
        self.chance = chance

    def guess(self, tokens: list[int], most: int) -> tuple[int, ...]:
        return tuple(range(most))


def guessed_in(speculation: Speculation, streams: list[Stream], steps: int, price: float) -> list[bool]:
    """Which steps were guessed on a machine where a step costs 1 second, and a guessed one `price`."""
    out = []
    for _ in range(steps):
        drafts = speculation.draft(streams)  # type: ignore[arg-type]
        rows = len(streams) + sum(map(len, drafts))
        speculation.time(len(streams), rows, price if any(drafts) else 1.0)
        out.append(any(drafts))
    return out


def test_the_first_step_is_plain_the_next_is_tried() -> None:
    assert guessed_in(Speculation(), [Stream(0.8)], 3, 1.1) == [False, True, True]


def test_it_is_off_where_it_loses_but_asks_again() -> None:
    steps = guessed_in(Speculation(), [Stream(0.5)] * 4, 1000, 3.0)
    assert 2 <= sum(steps) < 30
    assert any(steps[500:])


def test_it_comes_back_when_the_price_falls() -> None:
    speculation = Speculation()
    guessed_in(speculation, [Stream(0.8)], 200, 9.0)
    steps = guessed_in(speculation, [Stream(0.8)], 400, 1.2)
    assert all(steps[-50:])


def test_streams_that_are_hard_to_guess_are_left_alone() -> None:
    assert not any(guessed_in(Speculation(), [Stream(0.2)], 20, 1.0))


def test_a_guess_is_as_long_as_its_chance_allows() -> None:
    lengths = []
    for chance in (0.4, 0.6, 0.8, 0.95):
        speculation = Speculation()
        guessed_in(speculation, [Stream(chance)], 1, 1.0)
        lengths.append(len(speculation.draft([Stream(chance)])[0]))  # type: ignore[list-item]
    assert lengths == [1, 2, 5, 8]


def test_never_is_never_and_always_is_always() -> None:
    assert not any(guessed_in(Speculation("never"), [Stream(0.9)], 5, 0.1))
    assert all(guessed_in(Speculation("always"), [Stream(0.1)], 5, 100.0))


def test_an_adapter_that_diverges_fails_alone_beside_guesses(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine(speculation="always")
    diverged = Lora(tiny.config)
    with torch.no_grad():
        next(iter(diverged.parameters())).fill_(float("nan"))
    engine.add_version("diverged", diverged)
    asked = repetitive(4)
    results = run(engine, [*asked, (asked[0][0], asked[0][1], "diverged")])
    assert [result.finish_reason for result in results] == ["length"] * 4 + ["error"]
