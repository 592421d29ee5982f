"""OpenAI's hyperparameters: what `auto` becomes, and what is refused."""

from __future__ import annotations

import pytest

from tutee.errors import InvalidInput
from tutee.train.hyperparameters import resolve
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
