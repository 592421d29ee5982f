"""`tutee bench` and `tutee upgrade` as people type them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def home(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "home" / "models" / "tiny")
    return tmp_path / "home"


def tutee(home: Path, *arguments: str) -> str:
    environment = {**os.environ, "TUTEE_HOME": str(home), "TUTEE_MODEL": "tiny", "TUTEE_DTYPE": "float32"}
    command = [sys.executable, "-m", "tutee", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_bench_measures_this_machine(home: Path) -> None:
    found = json.loads(tutee(home, "bench", "--seconds", "1", "--json"))
    assert (found["model"], found["dtype"]) == ("tiny", "float32")
    assert found["streams_64_tok_s"] > 0
    assert found["streams_1_tok_s"] > 0
    assert found["prompt_tok_s"] > 0
    assert found["first_token_ms"] > 0
    assert not (home / "tutee.db").exists(), "a measurement stores nothing"
    assert "tokens/s" in tutee(home, "bench", "--seconds", "0.1")


def test_upgrade_makes_the_newest_schema(home: Path) -> None:
    said = tutee(home, "upgrade", "--unsaved")
    assert (home / "tutee.db").exists()
    assert tutee(home, "upgrade") == said
