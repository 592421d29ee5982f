"""OpenAI's hyperparameters: what `auto` becomes, and what is refused."""

from __future__ import annotations

import pytest

from tutee.errors import InvalidInput
from tutee.train.hyperparameters import method_of, resolve
from tutee.train.methods import METHODS

SFT, DPO = METHODS["sft"], METHODS["dpo"]


def test_auto_depends_on_the_number_of_rows() -> None:
    few = resolve("dpo", DPO, {"n_epochs": "auto", "beta": 0.3}, {}, rows=50)
    assert few.hyperparameters == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0, "beta": 0.3}
    assert few.settings == {"beta": 0.3}
    many = resolve("supervised", SFT, {}, {}, rows=10_000).hyperparameters
    assert many == {"n_epochs": 1, "batch_size": 16, "learning_rate_multiplier": 1.0}


def test_the_multiplier_is_of_the_rate_that_the_weights_in_training_want() -> None:
    lora = resolve("supervised", SFT, {"learning_rate_multiplier": 3}, {}, rows=10)
    full = resolve("supervised", SFT, {"learning_rate_multiplier": 3}, {"full": True}, rows=10)
    assert lora.settings["learning_rate"] == pytest.approx(6e-4)
    assert full.settings["learning_rate"] == pytest.approx(6e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_epochs", 51),
        ("n_epochs", True),
        ("batch_size", 0),
        ("beta", 2.1),
        ("learning_rate_multiplier", 0),
        ("compute_multiplier", 1),
    ],
)
def test_what_is_out_of_range_or_unknown_is_named(key: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve("dpo", DPO, {key: value}, {}, rows=10)
    assert caught.value.param == f"method.dpo.hyperparameters.{key}"


def test_a_method_has_only_its_own_and_says_nothing_twice() -> None:
    with pytest.raises(InvalidInput, match="not a hyperparameter of supervised"):
        resolve("supervised", SFT, {"beta": 0.1}, {}, rows=10)
    with pytest.raises(InvalidInput, match="as a hyperparameter and as a setting"):
        resolve("dpo", DPO, {"beta": 0.1}, {"beta": 0.2}, rows=10)


def test_reinforcement_counts_epochs_and_the_loop_steps() -> None:
    found = resolve("reinforcement", METHODS["grpo"], {}, {}, rows=16, validation=4)
    assert found.hyperparameters == {
        "n_epochs": 20,
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "reasoning_effort": "default",
        "compute_multiplier": 1.0,
        "eval_interval": 4,
        "eval_samples": 8,
        "x_algorithm": "grpo",
    }
    wanted = {"steps": 40, "prompts": 8, "group": 8, "eval_interval": 4, "eval_samples": 8}
    assert found.settings == wanted
    said = {"n_epochs": 3, "batch_size": 5, "compute_multiplier": 0.5, "eval_samples": 2, "x_algorithm": "rloo"}
    asked = resolve("reinforcement", METHODS["grpo"], {**said, "learning_rate_multiplier": 2}, {}, rows=16)
    assert asked.settings == {
        "steps": 10, "prompts": 5, "group": 4, "eval_interval": 1, "eval_samples": 2, "variant": "rloo",
        "learning_rate": pytest.approx(2e-4),
    }  # fmt: skip
    assert asked.hyperparameters.items() >= {**said, "learning_rate_multiplier": 2}.items()


def test_settings_of_ours_show_in_what_auto_became_and_contradict_nothing() -> None:
    own = {"prompts": 4, "group": 16, "steps": 9, "learning_rate": 3e-4}
    found = resolve("reinforcement", METHODS["grpo"], {}, own, rows=16)
    assert found.settings.items() >= own.items()
    shown = {"batch_size": 4, "compute_multiplier": 2.0, "learning_rate_multiplier": pytest.approx(3.0)}
    assert found.hyperparameters.items() >= shown.items()
    with pytest.raises(InvalidInput, match="as a hyperparameter and as a setting"):
        resolve("reinforcement", METHODS["grpo"], {"batch_size": 2}, {"prompts": 4}, rows=16)


@pytest.mark.parametrize("wrong", [{"prompts": 0}, {"prompts": "many"}, {"steps": True}])
def test_settings_out_of_range_are_named_before_anything_is_computed_of_them(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve("reinforcement", METHODS["grpo"], {}, wrong, rows=16)
    assert caught.value.param == f"settings.{next(iter(wrong))}"


def test_ppo_is_a_method_of_its_own() -> None:
    assert method_of("reinforcement", {"x_algorithm": "ppo"}) == "ppo"
    assert [method_of(name, {}) for name in ("supervised", "dpo", "reward_model", "reinforcement", "kto")] == [
        "sft", "dpo", "reward", "grpo", "kto"
    ]  # fmt: skip
