"""What is read off a prompt: exact, once, whatever the prompt's company, its pieces and its interruptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import random_lora
from tests.engine.stepping import finish
from tutee.engine.engine import Engine
from tutee.engine.readout import LastHidden, MeanHidden, PromptLogprobs
from tutee.engine.request import SamplingParams
from tutee.model.layout import Layout
from tutee.model.logprobs import log_softmax, score
from tutee.model.pretrained import Pretrained, load_pretrained

ONE = SamplingParams(max_tokens=1, temperature=0.0)
MakeEngine = Callable[..., Engine]


def scored(engine: Engine, prompts: list[list[int]], top: int = 0, version: str | None = None) -> list[PromptLogprobs]:
    readouts = [PromptLogprobs(top) for _ in prompts]
    for prompt, readout in zip(prompts, readouts, strict=True):
        engine.submit(prompt, ONE, version=version, readout=readout)
    finish(engine)
    return readouts


def assert_teacher_forced(model: Pretrained, prompts: list[list[int]], readouts: list[PromptLogprobs]) -> None:
    for prompt, readout, expected in zip(prompts, readouts, score(model.decoder, prompts), strict=True):
        assert len(readout.logprobs) == len(readout.top_logprobs) == len(prompt) - 1
        assert readout.logprobs == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("step", [512, 8], ids=["whole prompts", "pieces"])
def test_prompt_logprobs_are_those_of_teacher_forcing(
    make_engine: MakeEngine, tiny: Pretrained, prompts: list[list[int]], step: int
) -> None:
    engine = make_engine(max_step_tokens=step)
    assert_teacher_forced(tiny, prompts, scored(engine, prompts))
    again = scored(engine, prompts)  # now every prefix lies in the cache, and must be read all the same
    assert_teacher_forced(tiny, prompts, again)


def test_an_adapter_scores_as_itself(make_engine: MakeEngine, tiny: Pretrained, prompts: list[list[int]]) -> None:
    engine, lora = make_engine(), random_lora(tiny.config, 5)
    engine.add_version("other", lora)
    readouts = scored(engine, prompts, version="other")
    for readout, expected in zip(readouts, score(tiny.decoder, prompts, lora), strict=True):
        assert readout.logprobs == pytest.approx(expected.tolist(), abs=1e-6)


def test_what_was_read_before_a_preemption_is_not_read_again(
    make_engine: MakeEngine, tiny: Pretrained, prompts: list[list[int]]
) -> None:
    engine = make_engine(max_step_tokens=8)
    long = [token for prompt in prompts for token in prompt]
    logprobs, mean = PromptLogprobs(2), MeanHidden()
    for readout in (logprobs, mean):
        engine.submit(long, ONE, readout=readout)
    for _ in range(4):
        engine.step()
    assert 0 < logprobs.position < len(long)
    engine._stepper.scheduler.preempt_all()
    finish(engine)
    assert_teacher_forced(tiny, [long], [logprobs])
    assert mean.position == len(long)
    assert torch.allclose(mean.mean, hidden(tiny, long).double().mean(0), atol=1e-6)


def hidden(model: Pretrained, tokens: list[int]) -> torch.Tensor:
    layout = Layout.packed([len(tokens)])
    with torch.no_grad():
        states: torch.Tensor = model.decoder(torch.tensor(tokens), layout.positions, layout)
    return states


def test_the_likeliest_tokens_come_best_first(
    make_engine: MakeEngine, tiny: Pretrained, prompts: list[list[int]]
) -> None:
    three, none = PromptLogprobs(3), PromptLogprobs()
    engine = make_engine()
    for readout in (three, none):
        engine.submit(prompts[-1], ONE, readout=readout)
    finish(engine)
    with torch.no_grad():
        expected_TV = log_softmax(tiny.decoder.logits(hidden(tiny, prompts[-1])[:-1]))
    for row, top in zip(expected_TV, three.top_logprobs, strict=True):
        best = row.topk(3)
        assert [token for token, _ in top] == best.indices.tolist()
        assert [value for _, value in top] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert set(none.top_logprobs) == {()}


def test_reading_changes_no_answer(make_engine: MakeEngine, prompts: list[list[int]]) -> None:
    params = SamplingParams(max_tokens=12, seed=1, logprobs=0)
    engine = make_engine(max_step_tokens=16)
    plain = [engine.submit(prompt, params) for prompt in prompts]
    finish(engine)
    read = [engine.submit(prompt, params, readout=PromptLogprobs()) for prompt in prompts]
    finish(engine)
    for one, other in zip(plain, read, strict=True):
        assert one.result().token_ids == other.result().token_ids
        assert one.result().logprobs == pytest.approx(other.result().logprobs, abs=1e-6)


def test_a_prompt_of_one_token_has_a_mean_and_no_logprobs(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine, logprobs, mean = make_engine(), PromptLogprobs(1), MeanHidden()
    for readout in (logprobs, mean):
        engine.submit([65], ONE, readout=readout)
    finish(engine)
    assert logprobs.logprobs == []
    assert torch.allclose(mean.mean, hidden(tiny, [65])[0].double(), atol=1e-6)


def test_score_is_teacher_forcing_and_reads_prompts_once(
    make_engine: MakeEngine, tiny: Pretrained, prompts: list[list[int]]
) -> None:
    engine, lora = make_engine(max_step_tokens=16), random_lora(tiny.config, 5)
    engine.add_version("other", lora)
    shared = list(range(60, 90))
    sequences = [*prompts, *([*shared, token] for token in (3, 4)), [*shared, 3, 9, 9]]
    for version, adapter in ((None, None), ("other", lora)):
        expected = [values.tolist() for values in score(tiny.decoder, sequences, adapter)]
        for given, wanted in zip(engine.score(sequences, version=version), expected, strict=True):
            assert given == pytest.approx(wanted, abs=1e-6)
        first = [1] * len(prompts) + [30] * 3
        before = engine.stats.cached_tokens_total
        for given, wanted, at in zip(
            engine.score(sequences, version=version, first=first), expected, first, strict=True
        ):
            assert given == pytest.approx(wanted[at - 1 :], abs=1e-6)
        assert engine.stats.cached_tokens_total - before >= 3 * 28


def test_a_sequence_as_long_as_the_context_is_scored(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine = make_engine(cache_tokens=64)
    whole = [token % 200 for token in range(engine.context_length)]
    assert engine.score([whole])[0] == pytest.approx(score(tiny.decoder, [whole])[0].tolist(), abs=1e-6)


@pytest.mark.parametrize("block_size", [16, 8])  # in C where the machine can, and in PyTorch
def test_what_was_sampled_scores_as_it_was_reported(
    make_engine: MakeEngine, tiny_folder: Path, prompts: list[list[int]], block_size: int
) -> None:
    engine = make_engine(model=load_pretrained(tiny_folder, "bfloat16"), block_size=block_size)
    engine.add_version("other", random_lora(engine._model.config, 5))
    params = SamplingParams(max_tokens=20, seed=3, logprobs=0, ignore_eos=True)
    for version in (None, "other"):
        drawn = [group[0] for group in engine.generate(prompts, params, version=version)]
        sequences = [[*prompt, *answer.token_ids] for prompt, answer in zip(prompts, drawn, strict=True)]
        again = engine.score(sequences, version=version, first=[len(prompt) for prompt in prompts])
        if engine._stepper.runner._served.native:
            assert again == [list(answer.logprobs) for answer in drawn]
        else:  # PyTorch's bfloat16 promises closeness only
            for values, answer in zip(again, drawn, strict=True):
                assert values == pytest.approx(answer.logprobs, abs=0.05)


def test_the_last_hidden_state_may_follow_a_cached_prompt(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine, prompt = make_engine(), list(range(30, 71))
    for _ in range(2):
        readout = LastHidden(len(prompt))
        engine.submit(prompt, ONE, readout=readout)
        finish(engine)
        assert torch.allclose(readout.hidden, hidden(tiny, prompt)[-1], atol=1e-6)
    assert engine.stats.cached_tokens_total >= 36


def test_the_last_hidden_state_comes_with_the_last_piece(make_engine: MakeEngine, tiny: Pretrained) -> None:
    engine, prompt = make_engine(max_step_tokens=8), list(range(30, 71))
    neighbour = engine.submit([1, 2, 3], SamplingParams(max_tokens=30, seed=1, ignore_eos=True))
    readout = LastHidden(len(prompt))
    engine.submit(prompt, ONE, readout=readout)
    finish(engine)
    assert torch.allclose(readout.hidden, hidden(tiny, prompt)[-1], atol=1e-6)
    assert neighbour.result(timeout=0).finish_reason == "length"
