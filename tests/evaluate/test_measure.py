"""The examination on a tiny model: nothing changed reads as nothing changed, and a change is measured as one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tutee.conversation import Message
from tutee.data.rows import Origin, PairRow, Reply, SftRow
from tutee.engine.engine import Engine
from tutee.errors import InvalidInput
from tutee.evaluate import preference
from tutee.evaluate.gate import Score
from tutee.evaluate.measure import ExamConfig, Material, chosen_texts, measure
from tutee.evaluate.subject import Subject
from tutee.model.logprobs import score
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import load_pretrained

SMALL = ExamConfig(prompts=4, max_tokens=12, probe_items=12, probe_tokens=6)
ORIGIN = Origin("compare", ("fb-1",), "actor-1", "conv-1", "msg-1")
PAIR = PairRow((Message("user", "Say it."),), Reply("It is so."), Reply("na na na"), ORIGIN, "held_out")
WRITTEN = SftRow((Message("user", "Say it."),), Reply("It is so."), ORIGIN, "held_out")


@pytest.mark.parametrize("name", ["prompts", "max_tokens", "probe_items", "probe_tokens"])
def test_an_exam_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as error:
        ExamConfig(**{name: 0})
    assert error.value.param == name


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Iterator[Subject]:
    model = load_pretrained(tiny_folder, "float32")
    engine = Engine(model, max_batch=8, cache_tokens=4096, version="tiny")
    yield Subject(model, engine)
    engine.close()


@pytest.fixture(scope="module")
def adapter(base: Subject) -> Lora:
    lora = Lora(base.model.config, LoraConfig(rank=2, alpha=4.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return lora


@pytest.fixture(scope="module")
def changed(base: Subject, adapter: Lora) -> Subject:
    base.engine.add_version("changed", adapter)
    return Subject(base.model, base.engine, "changed")


def exam(candidate: Subject, base: Subject, material: Material) -> dict[str, Score]:
    return {s.suite: s for s in measure(candidate, base, base, material, SMALL, lambda part, done, total: None)}


def test_a_version_examined_against_itself_has_not_moved(base: Subject) -> None:
    found = exam(base, base, Material(held_out=[PAIR, WRITTEN]))
    assert found["drift.kl"].estimate == pytest.approx(0.0, abs=1e-6)
    assert found["drift.length_ratio"].estimate == 1.0
    assert found["drift.distinct_2"].estimate == 1.0
    assert found["capability.lost"].estimate == 0.0
    assert found["sycophancy.flip_increase"].estimate == 0.0
    assert found["preference.accuracy"].estimate == 0.5
    assert found["corrections.likelihood"].estimate == pytest.approx(0.0, abs=1e-6)


def test_a_changed_version_is_measured(base: Subject, changed: Subject) -> None:
    reward_calls: list[str] = []

    def reward(messages: object, text: str) -> float:
        reward_calls.append(text)
        return float(len(text))

    found = exam(changed, base, Material(chosen=chosen_texts([PAIR, WRITTEN]), held_out=[PAIR, WRITTEN], reward=reward))
    assert found["drift.kl"].estimate > 0.1
    assert found["drift.kl"].ci_lo < found["drift.kl"].estimate < found["drift.kl"].ci_hi
    assert found["preference.accuracy"].estimate in (0.0, 1.0)
    assert found["preference.reward_accuracy"].estimate == 1.0
    assert found["drift.length_ratio"].detail["chosen_q05"] == 3.0
    assert found["preference.reward_gain"].n == 4
    assert len(reward_calls) == 10
    assert all(math.isfinite(s.estimate) for s in found.values())


def test_margins_are_sums_of_log_ratios_over_the_answer(base: Subject, changed: Subject, adapter: Lora) -> None:
    def said(text: str) -> float:
        ids, mask = base.model.chat_format.render_training([*PAIR.prompt, Message("assistant", text)])
        first = mask.index(1)
        ours, theirs = (score(base.model.decoder, [ids], lora=lora)[0] for lora in (adapter, None))
        last = len(mask) - mask[::-1].index(1)
        return float((ours - theirs)[first - 1 : last - 1].sum())

    margin = preference.log_ratio_margins(changed, base, [PAIR])[0]
    assert margin == pytest.approx(said("It is so.") - said("na na na"), abs=1e-4)


def test_stopping_the_watcher_stops_the_examination(base: Subject) -> None:
    class Enough(Exception):
        pass

    def tick(part: str, done: int, total: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        measure(base, base, base, Material(), SMALL, tick)
    assert base.engine.stats.running == 0


def test_users_prompts_come_first_and_one_too_long_is_passed_over(base: Subject) -> None:
    asked: list[int] = []
    long = [Message("user", "long " * 400)]
    material = Material(prompts=[long, [Message("user", "Short?")]])
    measure(base, base, base, material, SMALL, lambda part, done, total: asked.append(total))
    assert max(asked) >= SMALL.prompts
    assert not base.fits(long)
