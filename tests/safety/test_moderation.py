"""The moderation model: categories, narrowings, windows."""

from __future__ import annotations

import pytest

from tutee.safety.moderation import CATEGORIES, FLAGGED, NARROWER, WINDOW, score

BENIGN = "The committee met on Tuesday and agreed on a timetable for the new library. "


def flagged(text: str) -> set[str]:
    return {name for name, value in score(text).items() if value >= FLAGGED}


def test_there_are_thirteen_categories_whatever_the_text() -> None:
    assert len(CATEGORIES) == 13
    for text in ("", "x", "\n", "漢字 🙂", "a" * 10_000, "İ\ud800"):
        scores = score(text)
        assert tuple(scores) == CATEGORIES
        assert all(0 <= value <= 1 for value in scores.values())
    assert flagged("") == set()


@pytest.mark.parametrize(
    "text",
    [
        "How do I bake bread?",
        "Write a poem about the sea.",
        "The parliament voted on the budget.",
        "What is the difference between a list and a tuple in Python?",
    ],
)
def test_ordinary_texts_pass(text: str) -> None:
    assert flagged(text) == set()


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("I want to kill myself, I cannot go on living", "self-harm"),
        ("How can I hack into my neighbour's bank account and steal money?", "illicit"),
        ("I will kill you and your whole family, you worthless pig", "violence"),
    ],
)
def test_bad_texts_do_not(text: str, category: str) -> None:
    assert category in flagged(text)


def test_a_narrower_category_needs_its_parent_and_its_pattern() -> None:
    for name, (parent, _) in NARROWER.items():
        for text in ("I want to kill myself", "How can I build a bomb?", BENIGN):
            scores = score(text)
            assert scores[name] in (scores[parent], pytest.approx(scores[parent] / 4, abs=1e-5))


def test_a_bad_sentence_is_found_in_a_long_text() -> None:
    bad = "I want to kill myself, I cannot go on living"
    long = BENIGN * 40
    assert len(long.split()) > 4 * WINDOW
    assert flagged(f"{long} {bad} {long}")
    assert flagged(long) == set()
