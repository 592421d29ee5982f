"""The watch over the worker that trains.

The worker is a child with its own interpreter: it may crash, be killed or run out of memory without touching the chat;
it is started again, later and later while it keeps failing. Knows no job.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from tutee.settings import Settings

log = logging.getLogger("tutee.serve")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
HEALTHY_SECONDS = 60.0
"""A worker that lived this long was not at fault: the next pause is short again."""
STOP_SECONDS = 10.0


def worker_command() -> list[str]:
    """How the worker is started, so that it does not outlive this process; its settings travel in the environment."""
    return [sys.executable, "-m", "tutee.serve.child", str(os.getpid()), "worker"]


def worker_environment(settings: Settings) -> dict[str, str]:
    """The environment in which the worker finds this server's home, database and model."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TUTEE_")}
    return inherited | {
        "TUTEE_HOME": str(settings.home),
        "TUTEE_DATABASE_URL": settings.url,
        "TUTEE_MODEL": settings.model,
        "TUTEE_DTYPE": settings.dtype,
        "TUTEE_THREADS": str(settings.threads),
        "TUTEE_MAX_BATCH": str(settings.max_batch),
        "TUTEE_CACHE_TOKENS": str(settings.cache_tokens),
        "TUTEE_PYTHON_GRADERS": settings.python_graders,
    }


class Supervisor:
    """Keeps one worker running until `close`."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.command = list(command)
        self.environment = environment
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._after = 0.0
        self._thread = threading.Thread(target=self._watch, name="worker-supervisor", daemon=True)

    def start(self, after: float = 0.0) -> None:
        """Start the worker, so many seconds from now, and watch it from a thread."""
        self._after = after
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The worker that runs now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def close(self) -> None:
        """Ask the worker to end (it puts its job back) and wait for it; kill it if it does not."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS + 5)

    def _watch(self) -> None:
        pause = FIRST_PAUSE
        self._closing.wait(self._after)
        while not self._closing.is_set():
            started = time.monotonic()
            self._process = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL)
            self.starts += 1
            while self._process.poll() is None and not self._closing.wait(0.2):
                pass
            if self._closing.is_set():
                self._stop(self._process)
                return
            pause = FIRST_PAUSE if time.monotonic() - started > HEALTHY_SECONDS else min(pause * 2, LONGEST_PAUSE)
            log.warning("the worker ended with status %s; again in %.0f s", self._process.returncode, pause)
            self._closing.wait(pause)

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
