"""`tutee erase` says what went, what learned from it, and where copies may be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.data.homes import Home, open_home
from tutee.cli.root import app
from tutee.data.from_feedback import collect
from tutee.data.snapshot import freeze
from tutee.errors import NotFound
from tutee.store.backup import backup


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with open_home(tmp_path / "home") as opened:
        yield opened


def tutee(home: Home, *arguments: str, answer: str | None = None) -> Result:
    path = str(home.store.home)
    return CliRunner().invoke(app, ["--home", path, "erase", *arguments], input=answer, catch_exceptions=False)


def taught(home: Home) -> tuple[str, Path]:
    """A version that learned from grace, and a stage file of a failed job that did."""
    home.person("grace", train=True)
    home.thumb(home.answer(home.ask("2+2?", "grace"), "4"), 1)
    snapshot = freeze(home.store, collect(home.store)).sha
    job = home.store.jobs.add("improve", "tiny", {}, snapshot_sha=snapshot)
    home.store.jobs.fail(job.id, "diverged", "It diverged.")
    stage = home.store.home / "jobs" / job.id / "candidates.jsonl"
    stage.parent.mkdir(parents=True)
    stage.write_text("2+2?")
    made = home.store.versions.add("v1", "adapter", weights_sha256="1" * 64, folder="v", snapshot_sha=snapshot)
    return made.name, stage


def test_an_erased_person_is_gone_and_what_learned_is_named(home: Home) -> None:
    name, stage = taught(home)
    copy = backup(home.store)
    said = tutee(home, "grace", answer="y\n")
    assert said.exit_code == 0, said.output
    for word in ("conversation", "feedback", name, "tutee improve", str(copy)):
        assert word in said.output
    assert not stage.exists()
    assert home.store.actors.by_handle("grace") is None
    with pytest.raises(NotFound, match="There is no person 'grace'"):
        tutee(home, "grace", "--yes")


def test_nothing_goes_without_a_yes(home: Home) -> None:
    _, stage = taught(home)
    assert tutee(home, "grace", answer="n\n").exit_code == 1
    assert tutee(home, "grace", "--json").exit_code == 2
    assert stage.exists()
    assert len(home.store.feedback.live()) == 1


def test_json_names_everything(home: Home) -> None:
    name, _ = taught(home)
    actor = home.person("grace")
    said = json.loads(tutee(home, actor, "--yes", "--json").stdout)
    assert said["actor_id"] == actor
    assert said["removed"] == {"conversation": 1, "feedback": 1}
    assert [version["name"] for version in said["tainted_versions"]] == [name]
    assert len(said["emptied_jobs"]) == 1
    assert said["erasure"] == home.store.feedback.erasures()[0].id
