from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor

from tutee.engine.request import SamplingParams
from tutee.engine.sampler import SamplerState, adjust, sample

DRAWS = 8_000


def logits_of(vocabulary: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def draw(logits_V: Tensor, count: int = DRAWS, prompt: tuple[int, ...] = (), **params: Any) -> NDArray[np.int64]:
    """How often each token was drawn, by `count` answers that differ in their seed only."""
    states = [SamplerState(SamplingParams(seed=seed, **params), seed, prompt) for seed in range(count)]
    tokens = sample(logits_V.repeat(count, 1), states).tokens
    return np.bincount(tokens, minlength=len(logits_V))


def expected(logits_V: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Any:
    """The distribution by its textbook definition: sort, cut, normalise."""
    p = torch.softmax(logits_V.double() / temperature, -1)
    best, order = p.sort(descending=True)
    if top_k:
        best[top_k:] = 0.0
    best[best < min_p * best[0]] = 0.0
    best /= best.sum()
    before = best.cumsum(-1) - best
    best[before >= top_p] = 0.0
    out = torch.zeros_like(p)
    out[order] = best / best.sum()
    return out.numpy()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.8},
        {"top_k": 5},
        {"top_p": 0.8},
        {"top_p": 0.05},
        {"min_p": 0.1},
        {"temperature": 1.5, "top_k": 12, "top_p": 0.7, "min_p": 0.05},
    ],
)
@pytest.mark.parametrize("vocabulary", [64, 50])
def test_draws_follow_the_distribution(vocabulary: int, params: dict[str, Any]) -> None:
    logits_V = logits_of(vocabulary)
    counts = draw(logits_V, **params)
    p = expected(logits_V, **params)
    assert counts[p == 0].sum() == 0
    common = p * DRAWS >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(p[common], p[~common].sum()) * DRAWS
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    if len(wanted) > 1:
        assert chisquare(observed, wanted).pvalue > 1e-3


def test_draws_follow_the_distribution_over_many_runs_of_the_vocabulary() -> None:
    logits_V = logits_of(49152, spread=4.0)
    counts = draw(logits_V, count=400)
    p = expected(logits_V)
    best = p.argsort()[-20:]
    observed = np.append(counts[best], 400 - counts[best].sum())
    assert chisquare(observed, np.append(p[best], 1 - p[best].sum()) * 400).pvalue > 1e-3


def test_successive_draws_of_one_answer_are_independent() -> None:
    state = SamplerState(SamplingParams(seed=5), 5)
    tokens = []
    for _ in range(1600):
        tokens.append(sample(torch.zeros(1, 4), [state]).tokens[0])
        state.accept(tokens[-1])
    pairs = np.bincount([4 * a + b for a, b in itertools.pairwise(tokens)], minlength=16)
    assert chisquare(pairs).pvalue > 1e-3


def test_a_draw_depends_on_its_own_row_only() -> None:
    logits_BV = torch.stack([logits_of(257, seed) for seed in range(12)])
    settings = [{"temperature": 0.0}, {}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.2}, {"presence_penalty": 1.0}]
    states = [SamplerState(SamplingParams(seed=i, **settings[i % 6]), i) for i in range(12)]
    together = sample(logits_BV.clone(), states).tokens
    alone = [sample(logits_BV[i : i + 1].clone(), [states[i]]).tokens[0] for i in range(12)]
    backwards = sample(logits_BV.flip(0).clone(), states[::-1]).tokens[::-1]
    assert together == alone == backwards


def test_temperature_zero_takes_the_first_of_the_best() -> None:
    logits_BV = torch.zeros(2, 300)
    logits_BV[0, [17, 200]] = 3.0
    logits_BV[1, 299] = 1.0
    states = [SamplerState(SamplingParams(temperature=0.0), 0)] * 2
    assert sample(logits_BV, states).tokens == [17, 299]


def test_top_p_zero_and_top_k_one_are_greedy() -> None:
    logits_V = logits_of(300)
    for params in ({"top_p": 0.0}, {"top_k": 1}, {"min_p": 1.0}):
        assert draw(logits_V, count=50, **params).argmax() == logits_V.argmax()
        assert np.count_nonzero(draw(logits_V, count=50, **params)) == 1


def test_logit_bias_forbids_and_forces() -> None:
    logits_V = torch.zeros(64)
    assert draw(logits_V, count=200, logit_bias={3: 100.0})[3] == 200
    assert draw(logits_V, count=2000, logit_bias={3: -100.0})[3] == 0
    twice = draw(logits_V, logit_bias={3: float(np.log(2))})[3]
    assert twice / DRAWS == pytest.approx(2 / 65, abs=0.006)


def adjusted(logits_V: Tensor, history: list[int], prompt: tuple[int, ...] = (), **params: Any) -> Tensor:
    """The logits that a token is chosen from after `history`."""
    state = SamplerState(SamplingParams(temperature=1.0, seed=0, **params), 0, prompt)
    for token in history:
        state.accept(token)
    out_BV = logits_V.unsqueeze(0).clone()
    adjust(out_BV, [state])
    return out_BV[0]


def test_presence_and_frequency_count_generated_tokens_only() -> None:
    logits_V = logits_of(40)
    change = adjusted(logits_V, [7, 7, 9], prompt=(7, 11), presence_penalty=0.5, frequency_penalty=0.25) - logits_V
    wanted = torch.zeros(40)
    wanted[7], wanted[9] = -1.0, -0.75
    torch.testing.assert_close(change, wanted)


def test_repetition_penalty_counts_the_prompt_too() -> None:
    logits_V = torch.tensor([2.0, -2.0, 1.0, -1.0])
    out = adjusted(logits_V, [1], prompt=(0,), repetition_penalty=2.0)
    torch.testing.assert_close(out, torch.tensor([1.0, -4.0, 1.0, -1.0]))


def test_many_different_tokens_are_all_counted() -> None:
    logits_V = torch.zeros(500)
    out = adjusted(logits_V, list(range(300)) * 2, presence_penalty=1.0)
    torch.testing.assert_close(out, torch.tensor([-1.0] * 300 + [0.0] * 200))


def test_end_tokens_are_impossible_before_min_tokens() -> None:
    state = SamplerState(SamplingParams(min_tokens=2, seed=1), 1, end_ids=(3,))
    logits_BV = torch.zeros(1, 8)
    logits_BV[0, 3] = 50.0
    tokens = []
    for _ in range(3):
        tokens.append(sample(logits_BV.clone(), [state]).tokens[0])
        state.accept(tokens[-1])
    assert 3 not in tokens[:2]
    assert tokens[2] == 3


@pytest.mark.parametrize("style", [{"min_p": 0, "top_k": 5}, {"min_p": 1}, {"temperature": 2, "top_p": 0}])
def test_whole_numbers_are_numbers(style: dict[str, int]) -> None:
    logits_BV = logits_of(300).repeat(8, 1)
    whole = [SamplerState(SamplingParams(seed=i, **style), i) for i in range(8)]  # type: ignore[arg-type]
    same = [SamplerState(replace(state.params, min_p=float(state.params.min_p)), i) for i, state in enumerate(whole)]
    assert sample(logits_BV.clone(), whole).tokens == sample(logits_BV.clone(), same).tokens


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-39, 1e-20, 1e-6])
@pytest.mark.parametrize("style", [{}, {"top_p": 0.5, "top_k": 4, "min_p": 0.1}])
def test_the_coldest_draw_is_the_most_likely_token(temperature: float, style: dict[str, Any]) -> None:
    logits_BV = torch.stack([logits_of(300, seed) for seed in range(8)])
    states = [SamplerState(SamplingParams(temperature=temperature, seed=i, **style), i) for i in range(8)]
    assert sample(logits_BV.clone(), states).tokens == logits_BV.argmax(1).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_p": 0.5, "top_k": 4, "min_p": 0.1}])
def test_a_row_that_is_not_finite_is_marked_and_the_others_are_not(bad: float, params: dict[str, Any]) -> None:
    logits_BV = torch.zeros(2, 64)
    logits_BV[1, 5] = bad
    states = [SamplerState(SamplingParams(seed=i, **params), i) for i in range(2)]
    tokens = sample(logits_BV, states).tokens
    assert tokens[0] >= 0
    assert tokens[1] == -1


def test_logprobs_are_the_models_own_whatever_the_sampling() -> None:
    logits_V = logits_of(100)
    own_V = torch.log_softmax(logits_V.double(), -1)
    params = SamplingParams(temperature=0.5, top_k=3, logit_bias={4: 5.0}, frequency_penalty=1.0, logprobs=5, seed=1)
    result = sample(logits_V.unsqueeze(0).clone(), [SamplerState(params, 1)])
    assert result.logprobs[0] == pytest.approx(own_V[result.tokens[0]].item(), abs=1e-5)
    ids, values = zip(*result.top_logprobs[0], strict=True)
    assert list(ids) == own_V.topk(5).indices.tolist()
    assert list(values) == pytest.approx(own_V.topk(5).values.tolist(), abs=1e-5)
