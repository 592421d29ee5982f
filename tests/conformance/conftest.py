"""One real server process on the real 135M model for the whole folder, and the official clients that drive it.

How to write a case: `@pytest.mark.conformance("T35")` on a test that takes `client` (official SDK), `strict_client`
(the same with strict checks of every reply) or `http` (raw requests). A case that takes more than about five seconds
says `@pytest.mark.conformance("T35", slow=True)`: `make test` leaves it out, `make conformance` runs it. The server is
shared, so a case names what it makes and expects other people's rows in lists; one that needs other settings, a
restart or a full queue takes `own_server`. Where the model cannot be fetched every case is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.model.families import default_model_folder

SLOW_TOO = "CONFORMANCE_SLOW"
"""Environment variable; when it is set, the slow cases run too."""
READY_SECONDS = 300.0
SMALL = {"threads": 1, "cache_tokens": 16384, "max_body_bytes": 4 << 20}
"""Settings of every server here that a test does not change."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(SLOW_TOO):
        return
    slow = [item for item in items if any(mark.kwargs.get("slow") for mark in item.iter_markers("conformance"))]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@dataclass
class ServerProcess:
    """`tutee serve` (with its worker) on a home of its own that outlives it: it can be stopped and started again."""

    home: Path
    model: Path
    settings: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    """`http://host:port` once it is ready; another port after every start."""
    key: str = "any"
    """What `client` authenticates with; on loopback any key is taken."""
    _process: subprocess.Popen[bytes] | None = None
    _log: Path = Path()

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What the server has written since its last start."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def start(self) -> ServerProcess:
        """Start it and wait until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._log = self.home / "serve.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TUTEE_")}
        settings = {"home": self.home, "model": self.model, "port": 0, **SMALL, **self.settings}
        environment = {f"TUTEE_{name.upper()}": str(value) for name, value in settings.items()}
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "tutee", "serve"]
            self._process = subprocess.Popen(command, env=inherited | environment, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if found := re.search(r"tutee is ready: (\S+)", self.log()):
                self.url = found[1].replace("0.0.0.0", "127.0.0.1")
                return self
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        pytest.fail(f"the server did not start:\n{self.log()[-3000:]}")

    def stop(self) -> None:
        """End it as Ctrl-C does; its home stays."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()
        self._process = None

    def client(self, **options: Any) -> openai.OpenAI:
        """The official SDK; no retries unless a test asks for them."""
        return openai.OpenAI(**{"base_url": self.base_url, "api_key": self.key, "max_retries": 0, **options})

    def http(self, **options: Any) -> httpx.Client:
        """Raw requests to paths such as `/v1/models`."""
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, **options)


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the default 135M model; skips where it cannot be fetched."""
    return default_model_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def server(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server that all cases share."""
    running = ServerProcess(tmp_path_factory.mktemp("conformance") / "home", real_model).start()
    yield running
    running.stop()


@pytest.fixture
def own_server(real_model: Path, tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """`own_server(max_waiting=1)`: a server of the test's own with other settings (`Settings` fields); stopped at the
    end. It may be stopped and started again on the same home."""
    started: list[ServerProcess] = []

    def start(**settings: Any) -> ServerProcess:
        process = ServerProcess(tmp_path / f"home-{len(started)}", real_model, settings)
        started.append(process)
        return process.start()

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def base_url(server: ServerProcess) -> str:
    """What OPENAI_BASE_URL would be."""
    return server.base_url


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The official SDK without retries."""
    with server.client() as sdk:
        yield sdk


@pytest.fixture(scope="session")
def strict_client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The official SDK, which raises APIResponseValidationError when a reply does not fit its types."""
    with server.client(_strict_response_validation=True) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """Raw requests to the shared server."""
    with server.http() as raw:
        yield raw


@pytest.fixture(scope="session")
def model(server: ServerProcess) -> str:
    """The base model's name: what the cases ask for where the model does not matter."""
    return server.model.name
