"""The recipe as a whole on a tiny model: what it makes of each kind of feedback, and how it survives a break."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tutee.conversation import Message
from tutee.data.rows import Origin, PairRow, Reply, Row, SftRow, UnpairedRow
from tutee.errors import InvalidInput
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.train.progress import Progress
from tutee.train.recipe import STAGES, RecipeConfig, RecipeResult, learned_reward, read_config, run_recipe

CONFIG = RecipeConfig(prompts=4, candidates=3, max_tokens=8, rank=2, sampling_batch=12, learning_rate=1e-3)
WORDS = [
    "some",
    "words",
    "that",
    "anybody",
    "might",
    "say",
    "about",
    "almost",
    "anything",
    "in",
    "a",
    "day",
    "at",
    "work",
    "or",
    "at",
    "home",
]


def origin(source: str, i: int) -> Origin:
    return Origin(source, (f"f{i}",), "ada", f"c{i}", f"q{i}")  # type: ignore[arg-type]


def prompt(i: int) -> tuple[Message, ...]:
    return (Message("user", f"Question {i % 8}?"),)


def votes(count: int, taste: float = 8.0, seed: int = 0) -> list[Row]:
    """Longer answers win with odds exp(taste * difference in length / 16 words); taste 0 is a coin."""
    dice = np.random.default_rng(seed)
    rows: list[Row] = []
    for i in range(count):
        a, b = (Reply(" ".join(dice.choice(WORDS, n)), f"g{i}{n}", "v0") for n in dice.integers(1, 17, 2))
        odds = taste * (len(a.text.split()) - len(b.text.split())) / 16
        first = dice.random() < 1 / (1 + np.exp(-odds))
        rows.append(PairRow(prompt(i), a if first else b, b if first else a, origin("compare", i)))
    return rows


def corrections(count: int) -> list[Row]:
    rows: list[Row] = []
    for i in range(count):
        right, wrong = Reply(f"Answer {i}."), Reply("Sorry, what?", f"g{i}", "v0")
        rows += [
            SftRow(prompt(i), right, origin("edit", i)),
            PairRow(prompt(i), right, wrong, origin("edit", i), margin=3),
        ]
    return rows


def run(model: Pretrained, rows: list[Row], folder: Path, **changes: object) -> tuple[RecipeResult, list[Progress]]:
    seen: list[Progress] = []
    config = read_config({**{name: getattr(CONFIG, name) for name in CONFIG.__slots__}, **changes})
    return run_recipe(model, rows, [prompt(7)], config, folder, report=seen.append), seen


def test_votes_and_corrections_make_an_adapter(model: Pretrained, tmp_path: Path) -> None:
    result, seen = run(model, votes(120) + corrections(4), tmp_path)
    lora = Lora.load(result.folder, model.config, model.weights_sha256)
    assert any(parameter.abs().max() > 0 for parameter in lora.B.values())
    stages = [progress.stage for progress in seen]
    assert tuple(s for i, s in enumerate(stages) if i == 0 or stages[i - 1] != s) == STAGES
    assert result.steps == seen[stages.index("imitate")].total + seen[stages.index("train")].total
    assert result.metrics["head_accuracy_low"] > 0.5
    assert {"policy_kl", "policy_words", "base_words", "scale"} <= result.metrics.keys()
    assert any("predicts votes" in note for note in result.notes)
    reward = learned_reward(tmp_path)
    assert reward is not None
    assert reward(prompt(0), " ".join(WORDS)) > reward(prompt(0), "words")


def test_random_votes_train_nothing_and_say_so(model: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"more comparisons") as caught:
        run(model, votes(120, taste=0.0, seed=1), tmp_path / "votes")
    assert caught.value.code == "not_enough_feedback"
    assert learned_reward(tmp_path / "votes") is None
    result, seen = run(model, votes(120, taste=0.0, seed=1) + corrections(4), tmp_path / "both")
    assert "candidates" not in {progress.stage for progress in seen}
    assert any("chance" in note for note in result.notes)


def test_corrections_alone_are_enough(model: Pretrained, tmp_path: Path) -> None:
    result, seen = run(model, corrections(4), tmp_path, replay=0)
    assert result.steps == -(-(4 + 4 * CONFIG.alone_repeats) // CONFIG.batch_size)
    assert {progress.stage for progress in seen} == {"head", "imitate", "guard"}


def test_a_few_thumbs_are_not_and_the_error_says_what_is_missing(model: Pretrained, tmp_path: Path) -> None:
    thumbs: list[Row] = [
        UnpairedRow(prompt(i), Reply("Yes.", f"g{i}", "v0"), True, origin("thumb", i)) for i in range(3)
    ]
    with pytest.raises(InvalidInput, match=r"0 comparisons and 3 thumbs\. Give at least 30 more comparisons"):
        run(model, thumbs, tmp_path)


def test_a_second_round_goes_on_from_the_first(model: Pretrained, tmp_path: Path) -> None:
    once, _ = run(model, votes(120) + corrections(2), tmp_path / "one")
    twice, _ = run(model, votes(120) + corrections(2), tmp_path / "two", rounds=2)
    assert twice.steps > once.steps
    assert (tmp_path / "two" / "candidates-2").is_dir()


class BrokenOffError(Exception):
    """Stands for whatever ended the worker."""


@pytest.mark.parametrize("stage", ["imitate", "candidates", "train", "guard"])
def test_a_run_broken_off_in_any_stage_ends_the_same(model: Pretrained, tmp_path: Path, stage: str) -> None:
    rows = votes(120) + corrections(4)
    whole, _ = run(model, rows, tmp_path / "whole")

    def break_off(progress: Progress) -> None:
        if progress.stage == stage and (stage not in ("imitate", "train") or progress.step == 2):
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        run_recipe(model, rows, [prompt(7)], CONFIG, tmp_path / "broken", report=break_off)
    again, _ = run(model, rows, tmp_path / "broken")
    assert (again.steps, again.metrics, again.notes) == (whole.steps, whole.metrics, whole.notes)
    ours, theirs = (Lora.load(result.folder, model.config).state_dict() for result in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_job_folder_of_other_data_is_refused(model: Pretrained, tmp_path: Path) -> None:
    run(model, corrections(2), tmp_path)
    with pytest.raises(InvalidInput, match=r"another data\. Start in another folder"):
        run(model, corrections(3), tmp_path)


def test_an_answer_longer_than_the_context_is_counted_not_cut(model: Pretrained, tmp_path: Path) -> None:
    long = SftRow(prompt(0), Reply("far too long " * 40), origin("edit", 9))
    result, _ = run(model, [*corrections(2), long], tmp_path)
    assert result.notes[0] == "1 rows are longer than the model's context and were left out."


def test_without_a_prompt_to_answer_nothing_is_scaled_back(model: Pretrained, tmp_path: Path) -> None:
    """The corrections fit the context, but beside their prompts there is no room for the longest answer."""
    config = replace(CONFIG, max_tokens=250)
    result = run_recipe(model, corrections(4), [], config, tmp_path)
    assert result.notes[-1].startswith("No prompt leaves room for an answer")
    assert "scale" not in result.metrics
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_unknown_and_impossible_settings_are_refused_by_name() -> None:
    for raw in ({"learningrate": 1}, {"prompts": "many"}, {"rounds": 3}, {"rank": 0}, {"seed": True}):
        with pytest.raises(InvalidInput) as caught:
            read_config(raw)
        assert caught.value.param == f"settings.{next(iter(raw))}"
