"""A job's numbers in OpenAI's words."""

from __future__ import annotations

import pytest

from tutee.worker.curves import COLUMNS, Series, headline, in_openai_words, result_table


def test_the_result_file_has_the_columns_of_its_method_and_no_timings() -> None:
    series: Series = {
        "train_loss": [(1, 2.5), (2, 1.25)],
        "valid_loss": [(2, 1.5)],
        "learning_rate": [(1, 0.1), (2, 0.05)],
        "tokens_per_second": [(1, 812.3), (2, 640.1)],
        "entropy": [(1, None)],
    }
    assert result_table("supervised", series).splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,learning_rate,grad_norm",
        "1,2.5,,,,0.1,",
        "2,1.25,,1.5,,0.05,",
    ]
    assert result_table("kto", {"kl": [(3, 0.5)]}).splitlines() == ["step,kl", "3,0.5"]


def test_a_step_is_said_in_openais_words() -> None:
    said = in_openai_words("supervised", {"train_loss": 1.0, "valid_loss": 2.0, "tokens": 9.0, "grad_norm": None})
    assert said == {"train_loss": 1.0, "valid_loss": 2.0, "full_valid_loss": 2.0}
    assert in_openai_words("reinforcement", {"reward": 0.5, "valid_reward": 0.25, "seconds": 3.0}) == {
        "train_reward_mean": 0.5,
        "valid_reward_mean": 0.25,
    }
    assert in_openai_words("improve", {"head_accuracy": 0.5, "x": None}) == {"head_accuracy": 0.5}


@pytest.mark.parametrize("method", COLUMNS)
def test_no_column_is_twice_the_same_number(method: str) -> None:
    assert len(set(COLUMNS[method].values())) == len(COLUMNS[method])


def test_a_line_in_the_log_shows_what_the_method_is_after() -> None:
    assert headline({"loss": 0.5}) == "training loss=0.50"
    assert headline({"loss": 0.5, "reward": 0.25, "valid_reward": 0.125}) == "reward=0.250, validation=0.125"
    assert headline({"kl": 1.0}) is None
