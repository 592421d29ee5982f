"""`tutee feedback export`: a file is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.data.homes import open_home
from tutee.cli import app
from tutee.errors import InvalidInput


def test_an_export_is_whole_scrubbed_and_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_home(tmp_path / "home") as home:
        home.edit(home.answer(home.ask("Whom do I ask?"), "Nobody."), "Ask ada@example.com.")
        monkeypatch.setenv("TUTEE_HOME", str(home.store.home))
    path = tmp_path / "pairs.jsonl"
    done = CliRunner().invoke(app, ["feedback", "export", str(path)], catch_exceptions=False)
    assert "1 examples" in done.output
    [row] = map(json.loads, path.read_text().splitlines())
    assert row["preferred_output"][0]["content"] == "Ask [EMAIL]."
    again = CliRunner().invoke(app, ["feedback", "export", str(path)])
    assert isinstance(again.exception, InvalidInput)
    missing = CliRunner().invoke(app, ["feedback", "export", str(tmp_path / "no" / "folder.jsonl")])
    assert isinstance(missing.exception, FileNotFoundError)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["pairs.jsonl"]
