"""Only blind votes between the two versions count, each person's newest word on each showing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_home import settings_for, show_two, vote
from tutee.errors import InvalidInput
from tutee.evaluate.ballots import votes_between
from tutee.evaluate.gate import judge
from tutee.evaluate.votes import Vote
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.store import Store
from tutee.store.schema import ModelVersion


@pytest.fixture
def store(planted_home: Path, tmp_path: Path) -> Iterator[Store]:
    home = Path(shutil.copytree(planted_home, tmp_path / "home"))
    opened = Store.open(settings_for(home).url, home)
    yield opened
    opened.close()


@pytest.fixture
def model(tiny_folder: Path) -> Pretrained:
    return load_pretrained(tiny_folder, "float32", name="tiny")


def add_version(store: Store, name: str) -> ModelVersion:
    base = store.versions.live()
    return store.versions.add(name, "adapter", weights_sha256=name * 8, folder=f"versions/{name}", parent_id=base.id)


def test_votes_are_read_from_the_side_of_the_candidate(store: Store, model: Pretrained) -> None:
    live, ours = store.versions.live(), add_version(store, "ours")
    assert votes_between(store, ours.id, live.id) == []
    new, old = (ours.id, "one two three"), (live.id, "one two three four five")
    for person, order, winner in (("ada", [new, old], "a"), ("grace", [old, new], "a"), ("edsger", [old, new], "b")):
        vote(store, person, show_two(store, model, person, f"Question of {person}?", order), winner)
    vote(store, "ada", show_two(store, model, "ada", "Undecided?", [new, old]), "both_bad")
    people = {name: store.actors.get_or_create(name).id for name in ("ada", "grace", "edsger")}
    assert votes_between(store, ours.id, live.id) == [
        Vote(people["ada"], "candidate", 3, 5),
        Vote(people["grace"], "live", 3, 5),
        Vote(people["edsger"], "candidate", 3, 5),
        Vote(people["ada"], "both_bad", 3, 5),
    ]
    assert [v.winner for v in votes_between(store, live.id, ours.id)] == ["live", "candidate", "live", "both_bad"]


def test_a_changed_mind_counts_once_and_other_showings_not_at_all(store: Store, model: Pretrained) -> None:
    live, ours, other = store.versions.live(), add_version(store, "ours"), add_version(store, "other")
    shown = show_two(store, model, "ada", "Which?", [(ours.id, "new"), (live.id, "old")])
    vote(store, "ada", shown, "b")
    vote(store, "ada", shown, "a")
    vote(store, "ada", show_two(store, model, "ada", "Others?", [(other.id, "new"), (live.id, "old")]), "a")
    vote(store, "ada", show_two(store, model, "ada", "Same?", [(live.id, "new"), (live.id, "old")]), "a")
    assert [v.winner for v in votes_between(store, ours.id, live.id)] == ["candidate"]


def test_a_verdict_against_the_version_before_does_not_promote(store: Store, model: Pretrained) -> None:
    first, second = add_version(store, "first"), add_version(store, "second")
    for version in (first, second):
        store.gates.add(version.id, store.versions.live().id, "pass", ["good"])
    store.promotions.promote(first.id, None)
    with pytest.raises(InvalidInput, match="another version than the live one"):
        store.promotions.promote(second.id, None)
    gate = judge(store, second.id)
    assert gate.verdict == "insufficient"
    assert any("version that is live now" in reason for reason in gate.reasons)
