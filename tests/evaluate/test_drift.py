"""Distances and lengths are the numbers that their definitions give."""

import numpy as np
import pytest

from tutee.evaluate import drift


def test_kl_estimate_agrees_with_the_exact_divergence() -> None:
    rng = np.random.default_rng(0)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    exact = 5 * float((p * np.log(p / q)).sum())
    tokens = rng.choice(3, size=(4000, 5), p=p)
    estimate, lo, hi = drift.kl_per_reply(list(np.log(p)[tokens]), list(np.log(q)[tokens]))
    assert estimate == pytest.approx(exact, rel=0.05)
    assert lo < exact < hi


def test_kl_of_a_version_with_itself_is_exactly_zero() -> None:
    logprobs = [[-1.0, -2.5], [-0.1]]
    assert drift.kl_per_reply(logprobs, logprobs) == (0.0, 0.0, 0.0)


def test_kl_of_mismatched_answers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zip|argument"):
        drift.kl_per_reply([[-1.0]], [[-1.0], [-2.0]])


def test_lengths() -> None:
    texts = ["one two three", "word " * 20, "a b c d e f g h"]
    assert drift.length_ratio(texts, ["w " * 16]) == 0.5
    assert drift.length_quantiles(texts)["q50"] == 8
    assert drift.length_quantiles([]) == {}
