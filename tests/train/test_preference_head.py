"""The head finds a taste that is there and refuses one that is not."""

from dataclasses import replace

import numpy as np
import pytest

from tutee.train.features import NAMES
from tutee.train.preference_head import Labels, fit_head

FEATURES = len(NAMES)


def voters(taste: np.ndarray, votes: int, thumbs: int, seed: int, noise: float = 1.0, corrections: int = 0) -> Labels:
    """Answers with random features; people choose by `taste` plus logistic noise (a zero taste is a coin). What they
    write has more of what they like."""
    dice = np.random.default_rng(seed)
    a, b = dice.normal(size=(2, votes, FEATURES))
    first = dice.random(votes) < 1 / (1 + np.exp(-(a - b) @ taste / noise))
    liked = dice.normal(size=(thumbs, FEATURES))
    replaced = dice.normal(size=(corrections, FEATURES))
    return Labels(
        chosen=np.where(first[:, None], a, b),
        rejected=np.where(first[:, None], b, a),
        weight=np.ones(votes),
        thumbs=liked,
        thumb_up=dice.random(thumbs) < 1 / (1 + np.exp(-liked @ taste / noise)),
        replaced=replaced,
        written=replaced + taste + 0.5 * dice.normal(size=(corrections, FEATURES)),
    )


def taste() -> np.ndarray:
    weights = np.zeros(FEATURES)
    weights[[0, 5, 13, 17]] = (-1.0, 1.0, -1.0, 0.7)
    return weights


@pytest.mark.parametrize("seed", range(3))
def test_recovers_a_planted_taste_from_150_noisy_votes(seed: int) -> None:
    head = fit_head(voters(taste(), 150, 0, seed))
    assert head.trusted
    assert head.low <= head.accuracy <= head.high
    fresh = np.random.default_rng(99).normal(size=(2000, 2, FEATURES))
    agrees = np.sign(head.score(fresh[:, 0]) - head.score(fresh[:, 1])) == np.sign(
        (fresh[:, 0] - fresh[:, 1]) @ taste()
    )
    assert agrees.mean() > 0.75
    assert {NAMES[i] for i in (0, 5, 13)} <= {name for name, _ in head.strongest(NAMES, 6)}


def test_refuses_random_votes() -> None:
    trusted = [fit_head(voters(np.zeros(FEATURES), 150, 30, seed)).trusted for seed in range(40)]
    assert sum(trusted) <= 3  # a 95 % interval may be wrong above chance in one of forty


def test_thumbs_alone_can_be_enough_and_random_thumbs_are_not() -> None:
    head = fit_head(voters(taste(), 0, 200, 1, noise=0.5))
    assert head.trusted
    assert head.votes == 0
    trusted = [fit_head(voters(np.zeros(FEATURES), 0, 100, seed)).trusted for seed in range(20)]
    assert sum(trusted) <= 2


def test_thumbs_join_the_votes_only_where_they_help() -> None:
    few = voters(taste(), 30, 200, 3, noise=0.5)
    assert fit_head(few).uses_thumbs
    assert not fit_head(replace(few, thumb_up=~few.thumb_up)).uses_thumbs


def test_corrections_teach_what_few_votes_leave_open() -> None:
    fresh = np.random.default_rng(99).normal(size=(2000, FEATURES))
    without, with_them = (
        np.mean(
            [
                np.corrcoef(fit_head(voters(taste(), 40, 0, seed, corrections=n)).score(fresh), fresh @ taste())[0, 1]
                for seed in range(5)
            ]
        )
        for n in (0, 20)
    )
    assert with_them > without + 0.1


def test_corrections_do_not_make_a_coin_trustworthy() -> None:
    coin, sure = voters(np.zeros(FEATURES), 150, 30, 0), voters(taste(), 0, 0, 0, corrections=40)
    head = fit_head(replace(coin, written=sure.written, replaced=sure.replaced))
    assert not head.trusted
    assert head.votes == 150


def test_best_and_worst_abstains_where_the_answers_are_alike() -> None:
    head = fit_head(voters(taste(), 150, 0, 0))
    answers = np.zeros((4, FEATURES))
    anybody = np.ones(4, dtype=np.bool_)
    assert head.best_and_worst(answers, anybody) is None
    answers[2, 5], answers[1, 13] = 3.0, 3.0  # more of a liked feature, more of a disliked one
    assert head.best_and_worst(answers, anybody) == (2, 1)


def test_only_who_may_win_is_best_and_anybody_may_be_worst() -> None:
    head = fit_head(voters(taste(), 150, 0, 0))
    answers = np.zeros((3, FEATURES))
    answers[2, 5], answers[1, 13] = 3.0, 3.0
    assert head.best_and_worst(answers, np.array([True, True, False])) == (0, 1)
    assert head.best_and_worst(answers, np.array([False, True, False])) is None  # the worst is the only one that may
    assert head.best_and_worst(answers, np.zeros(3, dtype=np.bool_)) is None


def test_a_feature_nobody_knows_is_read_as_average() -> None:
    labels = voters(taste(), 60, 0, 5)
    labels.chosen[:, -1] = np.nan
    labels.rejected[:, -1] = np.nan
    head = fit_head(labels)
    unknown, known = np.zeros((2, FEATURES))
    unknown[-1] = np.nan
    assert np.isfinite(head.score(np.stack([unknown, known]))).all()


def test_too_few_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="too few"):
        fit_head(voters(taste(), 4, 9, 0))


def test_the_same_labels_and_seed_give_the_same_head() -> None:
    first, second = (fit_head(voters(taste(), 80, 20, 2), seed=4) for _ in range(2))
    assert np.array_equal(first.ensemble, second.ensemble)
