"""`tutee keys` and `tutee projects` on a home of their own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tutee.cli.root import app
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.keys import usable


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def tutee(home: Path, *arguments: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(app, ["--home", str(home), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def store_of(home: Path) -> Store:
    return Store.open(f"sqlite:///{home / 'tutee.db'}", home)


def test_a_key_is_shown_once_and_kept_as_a_hash(home: Path) -> None:
    id, text = tutee(home, "keys", "create", "anna", "--name", "laptop", "--scope", "files.read").split()
    with store_of(home) as store:
        found = store.keys.find(text)
        assert found is not None
        assert (found.id, found.name, found.scopes, found.project_id) == (id, "laptop", ["files.read"], "proj_default")
        assert store.actors.get(found.actor_id).handle == "anna"
    assert text.encode() not in (home / "tutee.db").read_bytes()
    [listed] = json.loads(tutee(home, "keys", "list", "--json"))
    assert listed["id"] == id
    assert text not in json.dumps(listed)


def test_a_key_ends_by_itself_or_by_hand(home: Path) -> None:
    id, text = tutee(home, "keys", "create", "--days", "1").split()
    with store_of(home) as store:
        row = store.keys.find(text)
        assert row is not None
        assert row.expires_at == pytest.approx(time.time() + 86_400, abs=60)
        assert usable(row)
    assert "is revoked" in tutee(home, "keys", "revoke", id)
    with store_of(home) as store:
        row = store.keys.find(text)
        assert row is not None
        assert not usable(row)
        with pytest.raises(NotFound):
            store.keys.revoke(id)


def test_a_project_has_limits_and_keys_of_its_own(home: Path) -> None:
    project = tutee(home, "projects", "create", "Bakery", "--requests-per-minute", "60").strip()
    _, text = tutee(home, "keys", "create", "--project", project, "--tokens-per-minute", "1000").split()
    with store_of(home) as store:
        row = store.keys.find(text)
        assert row is not None
        assert (row.project_id, row.requests_per_minute, row.tokens_per_minute) == (project, None, 1000)
        assert store.actors.get(row.actor_id).kind == "service"
    listed = {each["id"]: each for each in json.loads(tutee(home, "projects", "list", "--json"))}
    assert set(listed) == {project, "proj_default"}
    assert (listed[project]["name"], listed[project]["requests_per_minute"]) == ("Bakery", 60)


def test_what_does_not_exist_is_refused(home: Path) -> None:
    with pytest.raises(InvalidInput, match=r"scopes\[0\]"):
        tutee(home, "keys", "create", "--scope", "files.fly")
    with pytest.raises(NotFound, match="proj_nowhere"):
        tutee(home, "keys", "create", "--project", "proj_nowhere")
