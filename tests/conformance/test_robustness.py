"""T85 and T86: nothing that anybody sends makes the server fail, and nothing leaks under load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conformance.conftest import ServerProcess

SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))
SEED = os.environ.get("FUZZ_SEED", "0")
PATIENCE_SECONDS = 300
"""An answer without a limit goes on to the end of the context: minutes, on one thread."""
BOTHERSOME = ("/v1/tutee/improve", "/v1/tutee/rollback")
"""Routes that start work of minutes, or change what is live for the cases that follow."""


@pytest.mark.conformance("T85", slow=True)
def test_schemathesis_finds_no_5xx(server: ServerProcess, tmp_path: Path) -> None:
    """FUZZ_SECONDS (600) of requests made from our own OpenAPI document, right ones and wrong ones."""
    command = shutil.which("schemathesis") or str(Path(sys.executable).parent / "schemathesis")
    if not Path(command).exists():
        pytest.skip("schemathesis is not installed: pip install schemathesis")
    settings = tmp_path / "schemathesis.toml"
    settings.write_text("")
    words = [command, "--config-file", str(settings), "run", f"{server.url}/openapi.json"]
    words += ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--seed", SEED, "--no-color"]
    words += ["--max-time", str(SECONDS), "--request-timeout", str(PATIENCE_SECONDS), "--continue-on-failure"]
    for path in BOTHERSOME:
        words += ["--exclude-path", path]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS + 600)
    report = done.stdout[-20_000:] + done.stderr[-2000:]
    assert done.returncode == 0, report
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200, server.log()[-3000:]


@pytest.mark.conformance("T86", slow=True)
def test_a_short_soak_leaks_nothing(real_model: Path) -> None:
    """The tool of `make soak` (an hour there) for three minutes: twice the load that the server can take."""
    script = Path(__file__).parent.parent.parent / "bench" / "soak.py"
    words = [sys.executable, str(script), "--minutes", "3", "--model", str(real_model)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
