"""`tutee trace`: from feedback to versions and back, also when something was erased since."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.data.homes import Home, open_home
from tutee.cli import app
from tutee.data.from_feedback import collect
from tutee.data.snapshot import freeze
from tutee.errors import InvalidInput
from tutee.store.schema import ModelVersion


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with open_home(tmp_path) as opened:
        monkeypatch.setenv("TUTEE_HOME", str(opened.store.home))
        yield opened


def tutee(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def learned(home: Home) -> ModelVersion:
    """A version made from all that is usable now."""
    snapshot = freeze(home.store, collect(home.store))
    return home.store.versions.add(
        "taught", "adapter", weights_sha256="9" * 64, folder="versions/taught", snapshot_sha=snapshot.sha
    )


def test_every_kind_of_feedback_is_traced_both_ways(home: Home) -> None:
    question = home.ask("Name a river.")
    first, second = home.answer(question, "The Rhine."), home.answer(question, "A river.")
    usable = {
        "compare": home.compare(first, second, "a").id,
        "edit": home.edit(second, "The Elbe.").id,
        "demo": home.demo(home.ask("Name a lake."), "Lake Constance.").id,
        "thumb": home.thumb(first, 1).id,
    }
    flag = home.store.feedback.add("flag", home.person(), message_id=first.id, payload={"category": "[/rude]"})
    learned(home)
    for kind, id in usable.items():
        found = json.loads(tutee("trace", id, "--json"))
        assert (found["feedback"]["kind"], found["versions"], found["feedback"]["usable"]) == (kind, ["taught"], True)
        assert "taught" in tutee("trace", id)
    assert json.loads(tutee("trace", flag.id, "--json"))["versions"] == []
    said = tutee("trace", flag.id)
    assert "read by people, not learned from" in said
    assert "[/rude]" in said
    back = json.loads(tutee("trace", "taught", "--json"))
    assert sorted(row["id"] for row in back["feedback"]) == sorted(usable.values())


def test_a_version_whose_weights_are_gone_does_not_go_live(home: Home) -> None:
    learned(home)
    done = CliRunner().invoke(app, ["promote", "taught", "--override", "--reason", "a test"])
    assert isinstance(done.exception, InvalidInput)
    assert done.exception.code == "damaged_weights"
    assert home.store.versions.live().id == home.version_id
    tutee("reject", "taught", "--reason", "its weights are gone")
    assert home.store.versions.get("taught").state == "rejected"


def test_a_version_is_traced_after_its_feedback_was_erased(home: Home) -> None:
    kept, gone = (home.thumb(home.answer(home.ask(f"Name river {i}."), "The Rhine."), 1) for i in range(2))
    learned(home)
    home.store.feedback.erase(gone.id, gone.actor_id)
    back = json.loads(tutee("trace", "taught", "--json"))
    assert ([row["id"] for row in back["feedback"]], back["erased"]) == ([kept.id], 1)
    assert "Erased since it was made: 1 of its feedback" in tutee("trace", "taught")
    assert [row["erased_count"] for row in json.loads(tutee("versions", "--json"))] == [0, 1]
