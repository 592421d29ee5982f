"""`tutee jobs`: what is said to a job from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tutee.cli.root import app
from tutee.errors import InvalidInput
from tutee.settings import Settings
from tutee.store import Store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def jobs(home: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["--home", str(home), "jobs", *arguments])
    if done.exception is not None:
        raise done.exception
    return done.output.strip()


def test_a_job_is_paused_and_resumed_and_cancelled(home: Path) -> None:
    with Store.open(Settings(home=home).url, home) as store:
        job = store.jobs.add("improve", "tiny", {})
    assert jobs(home, "pause", job.id) == "paused"
    assert jobs(home, "resume", job.id) == "queued"
    assert jobs(home, "cancel", job.id) == "cancelled"
    with pytest.raises(InvalidInput, match="has already been cancelled"):
        jobs(home, "resume", job.id)
