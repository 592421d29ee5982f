"""Several processes of one run, as torchrun would start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.ports import Port

ROOT = Path(__file__).parent.parent.parent


def start(ranks: int, *command: str) -> list[subprocess.Popen[str]]:
    """`python COMMAND…` once a rank, from the project's root; what they write on standard error is kept."""
    port = Port()
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.number), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=port.pass_fds,
        )
        for rank in range(ranks)
    ]
    port.close()
    return processes


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit status and last words of each; none outlives the test."""
    try:
        return [(process.wait(300), process.stderr.read() if process.stderr else "") for process in processes]
    finally:
        for process in processes:
            process.kill()
