"""No person, conversation or near-identical prompt straddles, and what was decided stays decided."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tutee.data.splits import GRAM, MIN_PEOPLE, NEAR, Item, assign, near_pairs, normalise

TOPICS = ("how do I water a cactus", "what is the capital of france", "write a short thank you note to my neighbour")
ENDS = ("", "?", " please", " today", " in winter", "!!", " and why is that so", " for a child")
WORDS = st.sampled_from([f"{topic}{end}" for topic in TOPICS for end in ENDS] + ["hi", "Hi!", "yes", "👍", "ok  then"])
NOVEL = st.text(alphabet="abcdefgh ", min_size=1, max_size=30)


def items_of(people: int) -> st.SearchStrategy[list[Item]]:
    """Items in which a conversation has one owner."""
    owned = st.tuples(st.integers(0, people - 1), st.integers(0, 4), WORDS | NOVEL)
    return st.lists(owned.map(lambda t: Item(f"p{t[0]}", f"p{t[0]}c{t[1]}", t[2])), max_size=40)


def near(a: str, b: str) -> bool:
    a, b = normalise(a), normalise(b)
    one, two = ({text[k : k + GRAM] for k in range(len(text) - GRAM + 1)} for text in (a, b))
    return a == b or (bool(one) and NEAR[1] * len(one & two) >= NEAR[0] * len(one | two))


@given(st.lists(WORDS | NOVEL, max_size=25))
def test_near_pairs_are_those_that_comparing_everything_finds(texts: list[str]) -> None:
    texts = [normalise(text) for text in texts]
    found = set(near_pairs(texts))
    distinct = {text: texts.index(text) for text in texts}
    brute = {(i, j) for a, i in distinct.items() for b, j in distinct.items() if i < j and near(a, b)} | {
        (distinct[text], i) for i, text in enumerate(texts) if distinct[text] != i
    }
    assert found == brute


@given(items_of(4) | items_of(25))
@settings(max_examples=200)
def test_nothing_straddles(items: list[Item]) -> None:
    splits = assign(items)
    trained = [item for item, split in zip(items, splits, strict=True) if split == "train"]
    held = [item for item, split in zip(items, splits, strict=True) if split == "held_out"]
    for kept in held:
        for item in trained:
            assert not near(kept.text, item.text)
            assert kept.conversation_id != item.conversation_id


@given(items_of(25))
@settings(max_examples=200)
def test_a_person_who_is_held_out_never_trains(items: list[Item]) -> None:
    """Whoever has anything set aside, or is alone in a held-out group as a person, must have no row in training."""
    splits = assign(items)
    aside = {item.person for item, split in zip(items, splits, strict=True) if split is None}
    assert not aside & {item.person for item, split in zip(items, splits, strict=True) if split == "train"}


@given(items_of(4), items_of(4))
@settings(max_examples=200)
def test_later_prompts_only_ever_move_others_into_the_held_out(before: list[Item], after: list[Item]) -> None:
    old, new = assign(before), assign(before + after)[: len(before)]
    for was, now in zip(old, new, strict=True):
        assert was == now or now == "held_out"


def people_with_own_prompts(people: int, each: int, seed: int = 0) -> list[Item]:
    dice = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        Item(f"person {p}", f"{p}/{c}", " ".join("".join(dice.choices(letters, k=7)) for _ in range(6)))
        for c in range(each)
        for p in range(people)
    ]


def test_shares_are_as_promised() -> None:
    one = assign(people_with_own_prompts(1, 2000))
    assert 0.12 < one.count("held_out") / 2000 < 0.18
    items = people_with_own_prompts(200, 20)
    splits = assign(items)
    of_person = {item.person: set[str | None]() for item in items}
    for item, split in zip(items, splits, strict=True):
        of_person[item.person].add(split)
    whole = sum(splits == {"held_out"} for splits in of_person.values()) / 200
    assert 0.05 < whole < 0.18
    assert 0.19 < splits.count("held_out") / len(splits) < 0.29


def test_below_ten_people_nobody_is_held_out_whole() -> None:
    items = people_with_own_prompts(MIN_PEOPLE - 1, 60)
    for person in {item.person for item in items}:
        mine = {split for item, split in zip(items, assign(items), strict=True) if item.person == person}
        assert mine == {"train", "held_out"}


def test_a_small_home_trains_and_measures() -> None:
    for seed in range(30):
        splits = assign(people_with_own_prompts(1, 7, seed))
        assert splits[0] == "train"
        assert "held_out" in splits
    assert assign([Item("a", "1", "hello")]) == ["train"]
    assert assign([]) == []


def test_what_a_held_out_person_asks_after_others_is_set_aside_and_what_he_starts_is_held_out_for_all() -> None:
    items = people_with_own_prompts(40, 1)
    away = next(item for item, split in zip(items, assign(items), strict=True) if split == "held_out")
    assert next(p for p in range(99) if assign(items, salt=f"s{p}")[items.index(away)] == "train") >= 0
    common = Item("person 0", "common", "which museum should i see first in vienna")
    echo = Item(away.person, "echo", "Which museum should I see first, in Vienna?!")
    for salt in (f"salt {n}" for n in range(40)):
        whole = assign([*items, common, echo], salt)
        if whole[-2] == "train" and whole[-1] != "train":
            assert whole[-1] is None
            break
    else:
        raise AssertionError("no salt held this person out")
    assert assign([*items, echo, common], salt)[-2:] == ["held_out", "held_out"]


def test_a_merge_of_two_groups_is_held_out_if_one_was() -> None:
    items = people_with_own_prompts(1, 60)
    splits = assign(items)
    trained, held = (items[splits.index(split)] for split in ("train", "held_out"))
    bridge = [Item("person 0", "bridge", trained.text), Item("person 0", "bridge", held.text)]
    after = assign([*items, *bridge])
    assert after[items.index(trained)] == after[items.index(held)] == "held_out"
    assert [now for now, item in zip(after, items, strict=False) if item is not trained] == [
        was for was, item in zip(splits, items, strict=True) if item is not trained
    ]


def test_normalise_folds_what_does_not_matter() -> None:
    assert normalise("  What's  the\nCAPITAL of ＦＲＡＮＣＥ?! ") == "what s the capital of france"
    assert normalise("¿?!") == "¿?!"
    assert normalise("") == ""


def test_long_texts_are_compared_by_their_beginning() -> None:
    dice = random.Random(1)
    book = " ".join("".join(dice.choices("abcdefgh", k=6)) for _ in range(4000))
    texts = [f"{book} {end}" for end in ("summarise it", "who wrote it")]
    assert normalise(texts[0]) != normalise(texts[1])
    assert list(near_pairs([normalise(text) for text in texts])) == [(0, 1)]
