"""S1 to S4: the four scripts of docs/from-openai.md, unchanged, with OpenAI's model names behind aliases."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import ServerProcess
from tutee.store import Store

SCRIPTS = Path(__file__).parent.parent.parent / "examples" / "from_openai"
SCRIPT_SECONDS = 1500


@pytest.fixture(scope="module")
def aliased(server: ServerProcess) -> ServerProcess:
    """The shared server, answering to OpenAI's names."""
    with Store.open(f"sqlite:///{server.home / 'tutee.db'}", server.home) as store:
        for pattern in ("gpt-4*", "o4*"):
            store.model_aliases.set(pattern, server.model.name)
    return server


def run(name: str, server: ServerProcess) -> str:
    environment = os.environ | {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": server.key}
    words = [sys.executable, str(SCRIPTS / f"{name}.py")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SCRIPT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def change(said: str, name: str) -> tuple[float, float]:
    """The two numbers of a line `name 0.1 → 0.2`."""
    found = re.search(rf"^{name} (-?[\d.]+) → (-?[\d.]+)", said, re.MULTILINE)
    assert found, said
    return float(found[1]), float(found[2])


@pytest.mark.conformance("S1", slow=True)
def test_the_supervised_script_lowers_the_loss(aliased: ServerProcess) -> None:
    said = run("supervised", aliased)
    begin, end = change(said, "loss")
    assert end < 0.7 * begin
    assert "Mapleton" in said.splitlines()[-1]


@pytest.mark.conformance("S2", slow=True)
def test_the_preference_script_ranks_as_people_did(aliased: ServerProcess) -> None:
    begin, end = change(run("preferences", aliased), "reward_accuracy")
    assert end >= max(begin, 0.9)


@pytest.mark.conformance("S3", slow=True)
def test_the_reinforcement_script_raises_the_reward(aliased: ServerProcess) -> None:
    said = run("reinforcement", aliased)
    assert "the grader gives 'odd' 1.00" in said
    begin, end = change(said, "valid_reward_mean")
    assert end > begin + 0.1


@pytest.mark.conformance("S4", slow=True)
def test_the_evaluation_script_counts(aliased: ServerProcess) -> None:
    said = run("evaluation", aliased)
    found = re.search(r"(\d+) of 10 passed, (\d+) failed, 0 could not be judged", said)
    assert found, said
    assert int(found[1]) + int(found[2]) == 10
    assert int(found[1]) >= 6
