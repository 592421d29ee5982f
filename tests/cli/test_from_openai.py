"""`tutee migrate openai` and `tutee models alias`, as somebody who comes from there types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.data.openai_export import exports
from tutee.cli import app
from tutee.store import Store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTEE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def tutee(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == status, done.output
    return done.output


def test_migrate_reports_what_it_did(home: Path, tmp_path: Path) -> None:
    folder = exports.platform(tmp_path / "export")
    exports.old_layout(folder / "chatgpt.zip")
    said = tutee("migrate", "openai", "--export", str(folder), "--as", "ada")
    assert "conversations" in said
    assert "jobs.json" in said
    report: dict[str, Any] = json.loads(tutee("migrate", "openai", "--export", str(folder), "--as", "ada", "--json"))
    assert report["added"] == {}
    assert report["known"]["messages"] == 7
    assert {"file", "line", "why"} == set(report["refused"][0])


def test_aliases_are_set_listed_and_removed(home: Path) -> None:
    with Store.open(f"sqlite:///{home / 'tutee.db'}", home) as store:
        store.versions.ensure_base("small", "0" * 64, "models/small")
    tutee("models", "alias", "gpt-4*", "chat")
    tutee("models", "alias", "gpt-4.1-nano-2025-04-14", "small")
    listed = json.loads(tutee("models", "alias", "--json"))
    assert listed == [
        {"pattern": "gpt-4.1-nano-2025-04-14", "target": "small"},
        {"pattern": "gpt-4*", "target": "chat"},
    ]
    tutee("models", "alias", "gpt-4*", "--remove")
    assert "gpt-4*" not in tutee("models", "alias")
