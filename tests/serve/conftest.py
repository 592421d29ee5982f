"""A real server on a free port in a thread, over a tiny random model, and the clients that drive it."""

from __future__ import annotations

import itertools
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
import uvicorn

from tests.conftest import write_tiny_model
from tutee.engine.engine import Engine
from tutee.engine.sampler import Sampled
from tutee.engine.scheduler import Scheduled
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import save_version
from tutee.model.weights import load_safetensors
from tutee.serve.app import build_app, open_services
from tutee.serve.services import Services
from tutee.settings import Settings


@dataclass
class Running:
    """A server that answers at `url`."""

    url: str
    services: Services

    def http(self, actor: str | None = None, **options: Any) -> httpx.Client:
        headers = options.pop("headers", {}) | ({"X-Tutee-Actor": actor} if actor else {})
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, **options)

    def sdk(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, **options)

    def strict(self) -> openai.OpenAI:
        return self.sdk(_strict_response_validation=True)


@contextmanager
def serving(settings: Settings, worker: bool = False) -> Iterator[Running]:
    """Open everything, listen on a free port, and close it all again."""
    with socket.socket() as listener, open_services(settings, worker=worker) as services:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            build_app(services), lifespan="off", log_level="warning", timeout_graceful_shutdown=1, server_header=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", services)
        server.should_exit = True
        thread.join(10)


@contextmanager
def halted(engine: Engine, steps: int = 0) -> Iterator[None]:
    """The engine does so many steps and then stands still until the end of the block, however long that takes."""
    runner, counted, go_on = engine._stepper.runner, itertools.count(), threading.Event()
    whole = runner.run

    def run(work: list[Scheduled]) -> tuple[list[Scheduled], Sampled]:
        if next(counted) >= steps:
            go_on.wait()
        return whole(work)

    runner.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        runner.run = whole  # type: ignore[method-assign]
        go_on.set()


@pytest.fixture(scope="session")
def roomy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a long context, so that an answer can be watched while it is written."""
    folder = tmp_path_factory.mktemp("serve") / "tiny"
    folder.mkdir()
    write_tiny_model(folder, context=4096)
    return folder


@pytest.fixture
def make_home(tmp_path: Path, roomy_model: Path) -> Callable[..., Settings]:
    """Settings of a fresh home with the tiny model on its shelf."""

    def make(name: str = "home", **changes: Any) -> Settings:
        return home_at(tmp_path / name, roomy_model, **changes)

    return make


def home_at(home: Path, shelf: Path, **changes: Any) -> Settings:
    if not (home / "models" / "tiny").exists():
        shutil.copytree(shelf, home / "models" / "tiny")
    facts: dict[str, Any] = {"model": "tiny", "dtype": "float32", "threads": 1, "max_body_bytes": 1 << 20}
    return Settings(home=home.resolve(), **(facts | changes))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, roomy_model: Path) -> Iterator[Running]:
    """One server for all tests that do not need one of their own; each test makes its own conversations."""
    with serving(home_at(tmp_path_factory.mktemp("shared-home"), roomy_model)) as running:
        yield running


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


@pytest.fixture
def sdk(server: Running) -> openai.OpenAI:
    return server.strict()


@dataclass
class Walk:
    """One person's way through the native routes."""

    http: httpx.Client
    conversation: str = ""
    sampling: dict[str, Any] = field(default_factory=lambda: {"max_tokens": 12, "temperature": 1.0})

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        reply = self.http.request(method, f"/v1/tutee{path}", json=body)
        assert reply.status_code == status, reply.text
        return reply.json()

    def begin(self, **fields: Any) -> str:
        self.conversation = self.call("POST", "/conversations", fields)["id"]
        return self.conversation

    def say(self, content: str, parent: str | None = None) -> dict[str, Any]:
        if not self.conversation:
            self.begin()
        body = {"content": content, "parent_id": parent}
        return dict(self.call("POST", f"/conversations/{self.conversation}/messages", body))

    def generate(self, parent: str, compare: bool = False, **sampling: Any) -> dict[str, Any]:
        body = {"parent_id": parent, "compare": compare, "sampling": self.sampling | sampling}
        return dict(self.call("POST", f"/conversations/{self.conversation}/generate", body, 202))

    def finished(self, message_id: str) -> dict[str, Any]:
        """Follow an answer to its end."""
        self.http.get(f"/v1/tutee/messages/{message_id}/stream").raise_for_status()
        return dict(self.call("GET", f"/messages/{message_id}"))

    def ask(self, content: str = "Hello", compare: bool = False, **sampling: Any) -> dict[str, Any]:
        """Say something in the conversation and wait for the answer, or the two answers."""
        shown = self.generate(self.say(content)["id"], compare, **sampling)
        shown["messages"] = [self.finished(message["id"]) for message in shown["messages"]]
        return shown


@pytest.fixture
def walk(http: httpx.Client) -> Walk:
    return Walk(http)


def add_candidate(
    running: Running, name: str, verdict: str | None = "insufficient", scale: float = 0.5, job_id: str | None = None
) -> str:
    """An adapter with random weights as a candidate, judged or not, made by nobody or a job; its version id."""
    store, base = running.services.store, running.services.live.base
    lora = Lora(base.model.config, LoraConfig(rank=2, alpha=4))
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * scale)
    folder = running.services.settings.home / "versions" / name
    lora.save(folder, base.model.weights_sha256, base.model.name)
    row = store.versions.add(
        name,
        "adapter",
        weights_sha256="0" * 63 + "1",
        folder=f"versions/{name}",
        parent_id=base.version.id,
        job_id=job_id,
    )
    if verdict is not None:
        store.gates.add(row.id, base.version.id, verdict, ["because"])
    return row.id


def add_full(running: Running, name: str) -> str:
    """A version with weights of its own, of the base's shape; its id."""
    store, base = running.services.store, running.services.live.base
    folder = running.services.settings.home / "versions" / name
    state = {key: 0.9 * weight for key, weight in load_safetensors(base.model.folder).items()}
    sha256 = save_version(base.model, folder, state=state)
    return store.versions.add(
        name, "full", weights_sha256=sha256, folder=f"versions/{name}", parent_id=base.version.id
    ).id
