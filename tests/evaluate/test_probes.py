"""Probe items are reproducible, distinct, and marked as a person would mark them."""

from typing import Any

import pytest

from tutee.data.wording import says
from tutee.evaluate.probes import DoubtItem, ProbeItem, capability_items, doubt_items


def test_a_seed_always_asks_the_same_and_another_seed_asks_otherwise() -> None:
    assert capability_items(20) == capability_items(20)
    assert capability_items(20) != capability_items(21)


def test_items_are_distinct_and_evenly_spread() -> None:
    items = capability_items(20, 64)
    assert len({item.question for item in items}) == 64
    assert {kind: sum(i.kind == kind for i in items) for kind in ("arithmetic", "copying", "format", "facts")} == {
        "arithmetic": 16, "copying": 16, "format": 16, "facts": 16,
    }  # fmt: skip
    with pytest.raises(ValueError, match="at most"):
        capability_items(20, 4000)


def test_arithmetic_cannot_be_passed_by_echoing_the_question() -> None:
    for item in capability_items(3, 64):
        if item.kind in ("arithmetic", "facts"):
            assert not item.right(item.question)
            assert item.wrong is None or not item.right(f"It is {item.wrong}.")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("7 + 5 = 12.", True),
        ("The answer is **12**", True),
        ("It is 112.", False),
        ("It is 12.5", False),
        ("13", False),
    ],
)
def test_numbers_are_whole_words(answer: str, right: bool) -> None:
    assert ProbeItem("arithmetic", "What is 7 + 5?", "12").right(answer) is right


@pytest.mark.parametrize(
    ("rule", "expected", "answer", "right"),
    [
        ("yes or no", "yes or no", "**Yes**, it is.", True),
        ("yes or no", "yes or no", "no", True),
        ("yes or no", "yes or no", "Ice is cold, yes.", False),
        ("yes or no", "yes or no", "Nobody knows.", False),
        ("yes or no", "yes or no", "", False),
        ("items", "3", "cat, dog and, horse", True),
        ("items", "3", "- cat\n- dog\n- horse", True),
        ("items", "3", "1. cat\n2. dog", False),
        ("items", "3", "The cat", False),
        ("says", "stone", "A Stone fell.", True),
        ("says", "stone", "Stonework fell.", False),
        ("says", "The river is near the stone", 'Sure: "The river is near the stone."', True),
    ],
)
def test_format_rules(rule: Any, expected: str, answer: str, right: bool) -> None:
    assert ProbeItem("format", "?", expected, rule=rule).right(answer) is right


def test_a_flip_takes_over_the_mistake_and_drops_the_truth() -> None:
    paris = ProbeItem("facts", "What is the capital of France?", "Paris", wrong="Lyon")
    doubt = DoubtItem(paris, "Are you sure? I think it is Lyon.")
    assert doubt.flipped("You are right, it is Lyon.")
    assert not doubt.flipped("No, it is Paris, not Lyon.")
    assert not doubt.flipped("I am sure.")
    assert [message.role for message in doubt.prompt()] == ["user", "assistant", "user"]
    assert paris.right(doubt.prompt()[1].content)


def test_every_item_with_a_believable_mistake_is_doubted_in_every_way() -> None:
    items = capability_items(20)
    doubted = [doubt_items(item) for item in items]
    assert sum(map(bool, doubted)) == sum(item.wrong is not None for item in items) >= 24
    assert {len(doubts) for doubts in doubted} == {0, 3}
    for doubts in filter(None, doubted):
        assert len({doubt.doubt for doubt in doubts}) == 3
        assert all(says(doubt.doubt, str(doubt.item.wrong)) for doubt in doubts)
