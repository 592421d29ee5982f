"""Every metric against a value worked out by hand."""

from __future__ import annotations

import math

import pytest

from tutee.grade.similarity import METRICS, MOST_CHARACTERS, MOST_WORDS_ALIGNED, similarity

TEXT, REFERENCE = "the cat sat on the mat", "the cat is on the mat"


def test_rouge_counts_what_both_share() -> None:
    # n-grams of 6 words each: 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, no longer ones; the common subsequence has 5
    hand = {"rouge_1": 5 / 6, "rouge_2": 3 / 5, "rouge_3": 1 / 4, "rouge_4": 0.0, "rouge_5": 0.0, "rouge_l": 5 / 6}
    for metric, value in hand.items():
        assert similarity(metric, TEXT, REFERENCE) == pytest.approx(value), metric


def test_gleu_is_the_lesser_of_precision_and_recall_over_all_n_grams() -> None:
    assert similarity("gleu", TEXT, REFERENCE) == pytest.approx((5 + 3 + 1 + 0) / (6 + 5 + 4 + 3))


def test_bleu_is_the_smoothed_geometric_mean() -> None:
    # precisions 5/6, 3/5, 1/4, and for the fourth, with no match among 3, 1 / (2 * 3)
    value = (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25
    assert similarity("bleu", TEXT, REFERENCE) == pytest.approx(value)
    brevity = math.exp(1 - 6 / 3)
    assert similarity("bleu", "the cat is", REFERENCE) == pytest.approx(brevity)


def test_meteor_weighs_recall_and_fragmentation() -> None:
    # 5 matches in 2 chunks of 6 words: F = 5/6, penalty 0.5 (2/5)^3
    assert similarity("meteor", TEXT, REFERENCE) == pytest.approx(5 / 6 * (1 - 0.5 * (2 / 5) ** 3))
    assert similarity("meteor", "running", "runs") > 0.4, "stems match"


def test_cosine_is_that_of_word_counts() -> None:
    # the:2 cat sat on mat against the:2 cat is on mat
    assert similarity("cosine", TEXT, REFERENCE) == pytest.approx((4 + 1 + 1 + 1) / 8)


def test_fuzzy_match_ignores_case_and_punctuation() -> None:
    assert similarity("fuzzy_match", "Hello World!", "hello world") == 1.0
    # one of 11 characters differs on each side: 2 * 10 / 22
    assert similarity("fuzzy_match", "hello wurld", "hello world") == pytest.approx(10 / 11, abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_bounds(metric: str) -> None:
    assert similarity(metric, REFERENCE, REFERENCE) == pytest.approx(1.0, abs=0.01)
    cyrillic = "Привет, мир! Как сегодня идут твои дела?"
    assert similarity(metric, cyrillic, cyrillic) == pytest.approx(1.0, abs=0.01)
    assert similarity(metric, "", "") == 1.0
    assert similarity(metric, "", REFERENCE) == 0.0
    assert similarity(metric, TEXT, " ") == 0.0
    for text in ("zzz", "!!!", "ä漢字 🎈", "\x00\ud800", "%s {0}"):
        assert 0.0 <= similarity(metric, text, REFERENCE) <= 1.0
    assert similarity(metric, "qqq", "vvv") < 0.01


def test_texts_that_would_take_for_ever_are_refused() -> None:
    with pytest.raises(ValueError, match="characters"):
        similarity("bleu", "x" * (MOST_CHARACTERS + 1), "x")
    long = "a " * (MOST_WORDS_ALIGNED + 1)
    with pytest.raises(ValueError, match="words"):
        similarity("meteor", long, "x")
    assert similarity("cosine", long, "a") == 1.0
