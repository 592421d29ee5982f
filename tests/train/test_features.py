"""Features say what is on the surface of an answer, and nothing changes their number or order."""

import numpy as np

from tutee.train.features import NAMES, Described, feature_matrix, surface_features

LIST = "Fruits:\n- apples\n- pears\n- plums"


def test_counts_shape_opening_and_ending() -> None:
    seen = surface_features(
        Described("List three red fruits.", "Sure! " + LIST + "\n**Anything else?**", finished=False)
    )
    assert seen["list"] == 1
    assert seen["list where asked"] == 1
    assert seen["boilerplate opening"] == 1
    assert seen["finished"] == 0
    assert seen["question marks"] == 1
    assert seen["bold"] > 0
    assert seen["words of the prompt"] == 0.5  # "fruits" and "red"; "list" and "three" are not content


def test_a_list_that_nobody_asked_for_is_told_apart() -> None:
    assert surface_features(Described("What is gravity?", LIST))["list where asked"] == 0
    assert surface_features(Described("Name four red fruits.", LIST))["list where asked"] == 1


def test_length_has_hinges() -> None:
    def at(count: int) -> list[float]:
        seen = surface_features(Described("", "word " * count))
        return [seen[name] for name in ("words", "words over 20", "words over 40", "words over 60")]

    assert at(10) == [0.5, 0, 0, 0]
    assert at(50) == [2.5, 1.5, 0.5, 0]
    assert at(500) == at(120)  # beyond that, longer is just long


def test_empty_and_foreign_answers_have_finite_features() -> None:
    matrix = feature_matrix([Described("", "", mean_logprob=-1.0), Described("Warum?", "…\u200d❓", mean_logprob=0.0)])
    assert matrix.shape == (2, len(NAMES))
    assert np.isfinite(matrix).all()


def test_an_unknown_log_prob_is_nan_not_zero() -> None:
    assert np.isnan(feature_matrix([Described("a", "b")])[0, NAMES.index("mean log-prob")])
