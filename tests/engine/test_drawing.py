"""Draws in C are PyTorch's draws; an engine in bfloat16 gives the same bits in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.engine.conftest import random_lora
from tests.engine.stepping import assert_same, run, run_alone
from tests.engine.test_sampler import logits_of
from tutee.engine import drawing, sampler
from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.engine.sampler import SamplerState
from tutee.model.matrix_unit import library
from tutee.model.pretrained import Pretrained, load_pretrained

pytestmark = pytest.mark.skipif(library() is None, reason="this processor has no matrix unit, or there is no compiler")
STYLES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 1e-40},
    {"temperature": 0.7, "top_p": 0.9},
    {"top_k": 20, "min_p": 0.01},
    {"temperature": 1.4, "min_p": 0.1, "top_p": 0.5},
    {"logit_bias": {5: 30.0}},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
]


@pytest.mark.parametrize("vocabulary", [50, 256, 5000])
@pytest.mark.parametrize("style", STYLES)
def test_the_same_tokens_and_logprobs(style: dict[str, Any], vocabulary: int) -> None:
    logits_BV = torch.stack([logits_of(vocabulary, seed) for seed in range(100)])
    states = [
        SamplerState(SamplingParams(**({"seed": i, "logprobs": 2 if i % 3 == 0 else 0} | style)), i, [1, 2, 3])
        for i in range(len(logits_BV))
    ]
    ours, theirs = drawing.sample(logits_BV.clone(), states), sampler.sample(logits_BV.clone(), states)
    assert ours.tokens == theirs.tokens
    assert torch.allclose(torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=1e-5)
    for mine, other in zip(ours.top_logprobs, theirs.top_logprobs, strict=True):
        assert [token for token, _ in mine] == [token for token, _ in other]
        assert [value for _, value in mine] == pytest.approx([value for _, value in other], abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_give_no_token(temperature: float) -> None:
    logits_BV = torch.randn(4, 300)
    logits_BV[0, 7], logits_BV[1], logits_BV[2, 299] = float("nan"), -float("inf"), float("inf")
    states = [SamplerState(SamplingParams(temperature=temperature, seed=1), 1)] * 4
    tokens = drawing.sample(logits_BV, states).tokens
    assert tokens[:3] == [-1, -1, -1]
    assert tokens[3] >= 0


@pytest.fixture(scope="module")
def fast(tiny: Pretrained) -> Pretrained:
    return load_pretrained(tiny.folder, "bfloat16")


def test_bfloat16_is_the_same_in_any_company(fast: Pretrained, prompts: list[list[int]]) -> None:
    styles = [{"temperature": 1.0}, {"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9}]
    asked = [
        (
            prompt,
            SamplingParams(seed=i, max_tokens=14, logprobs=0, ignore_eos=True, **styles[i % 3]),
            (None, "one")[i % 2],
        )
        for i, prompt in enumerate(prompts)
    ]
    together, alone = (Engine(fast, cache_tokens=2048, autostart=False, max_step_tokens=n) for n in (24, 512))
    for engine in (together, alone):
        engine.add_version("one", random_lora(fast.config, 1))
    assert_same(run(together, asked), run_alone(alone, asked), tolerance=0.0)
