"""`kill -9` at random moments of a whole walk: what was acknowledged is still there, and the job ends where it should.

CRASH_KILLS sets how many kills (default 6; `make crash` does 30), CRASH_SEED where they fall.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import Port
from tutee.store import Store
from tutee.store.doctor import examine

KILLS = int(os.environ.get("CRASH_KILLS", "6"))
SEED = int(os.environ.get("CRASH_SEED", "0"))
PATIENCE_S = 600
"""A machine that does other work too is slow, not broken."""
RECIPE = {"prompts": 8, "candidates": 2, "max_tokens": 12}


@dataclass
class Home:
    """A server process on a home that outlives it."""

    home: Path
    model: Path
    port: Port = field(default_factory=Port)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port.number}"

    def start(self) -> None:
        environment = {
            **os.environ,
            "TUTEE_HOME": str(self.home),
            "TUTEE_MODEL": str(self.model),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "tutee", "serve", "--port", str(self.port.number), "--dtype", "float32"]
        log = (self.home.parent / f"serve-{self.starts}.log").open("wb")
        self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.starts += 1
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, Path(log.name).read_text()[-3000:]
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            time.sleep(0.25)
        pytest.fail(f"not ready: {Path(log.name).read_text()[-3000:]}")

    def worker_pid(self) -> int | None:
        """The newest worker on this home, whoever started it."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit():
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    if b"worker" in words and f"TUTEE_HOME={self.home}".encode() in environment:
                        found.append(int(entry.name))
        return max(found, default=None)

    def kill_server(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_worker(self) -> bool:
        pid = self.worker_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pid is not None


@dataclass
class Walk:
    """Someone who chats and teaches without pause, and remembers everything that the server acknowledged."""

    base_url: str
    messages: dict[str, str] = field(default_factory=dict)
    conversations: dict[str, str] = field(default_factory=dict)
    feedback: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    rounds: int = 0
    unexpected: list[str] = field(default_factory=list)

    def run(self) -> None:
        dice = random.Random(SEED)
        with httpx.Client(base_url=f"{self.base_url}/v1/tutee", timeout=30) as http:
            while not self.stop.is_set():
                try:
                    self.one_round(http, dice)
                    self.rounds += 1
                except (httpx.HTTPError, json.JSONDecodeError):
                    time.sleep(0.1)  # the server is gone for a moment

    def call(self, http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
        reply = http.request(method, path, json=body)
        if reply.is_error:
            if reply.status_code not in (429, 503):
                self.unexpected.append(f"{method} {path}: {reply.status_code} {reply.text[:300]}")
            raise httpx.HTTPError(reply.text)
        return reply.json()

    def one_round(self, http: httpx.Client, dice: random.Random) -> None:
        conversation = self.call(http, "POST", "/conversations", {})["id"]
        text = f"question {self.rounds} {dice.random()}"
        turn = self.call(http, "POST", f"/conversations/{conversation}/messages", {"content": text, "parent_id": None})
        self.messages[turn["id"]], self.conversations[turn["id"]] = text, conversation
        body = {"parent_id": turn["id"], "compare": True, "sampling": {"max_tokens": 24}}
        shown = self.call(http, "POST", f"/conversations/{conversation}/generate", body)
        done = [self.finished(http, message["id"]) for message in shown["messages"]]
        for message in done:
            self.messages[message["id"]], self.conversations[message["id"]] = message["content"], conversation
        vote = {
            "kind": "compare",
            "presentation_id": shown["presentation_id"],
            "winner": dice.choice("ab"),
            "dwell_ms": 5000,
        }
        self.feedback.add(self.call(http, "POST", "/feedback", vote)["id"])
        edit = {"kind": "edit", "message_id": done[0]["id"], "content": f"better {text}"}
        self.feedback.add(self.call(http, "POST", "/feedback", edit)["id"])

    def finished(self, http: httpx.Client, message_id: str) -> Any:
        while (message := self.call(http, "GET", f"/messages/{message_id}"))["state"] == "streaming":
            time.sleep(0.02)
        return message


@pytest.mark.slow
def test_nothing_is_lost(tmp_path: Path, tiny_folder: Path, planted_home: Path) -> None:
    home = Home(tmp_path / "home", tiny_folder)
    shutil.copytree(planted_home, home.home)  # feedback that a job can learn from at once
    home.start()
    url = home.url
    walk = Walk(url)
    walker = threading.Thread(target=walk.run)
    walker.start()
    dice = random.Random(SEED)
    worker_kills = 0
    jobs: list[str] = []
    try:
        for kill in range(KILLS):
            deadline = time.monotonic() + dice.uniform(0.3, 4.0)
            while time.monotonic() < deadline:
                time.sleep(0.05)
            if kill % 5 == 0:
                with contextlib.suppress(httpx.HTTPError, KeyError):
                    reply = httpx.post(f"{url}/v1/tutee/improve", json={"settings": RECIPE}, timeout=PATIENCE_S)
                    jobs += [reply.json()["id"]] if reply.is_success else []
            if kill % 2 and home.kill_worker():
                worker_kills += 1
            else:
                home.kill_server()
                home.start()
        deadline = time.monotonic() + PATIENCE_S
        while not walk.rounds:  # on a slow machine no round may have fitted between two kills
            assert time.monotonic() < deadline, "nobody can chat"
            time.sleep(0.05)
    finally:
        walk.stop.set()
        walker.join(PATIENCE_S)
    assert not walker.is_alive()
    assert not walk.unexpected
    ended = [wait_for_job(url, job) for job in jobs]
    assert "succeeded" in ended, "no job ran to its end, so nothing was shown about going on"
    home.kill_server()
    home.kill_worker()
    home.port.close()
    check_store(home, walk, jobs)


def wait_for_job(url: str, job_id: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        job = httpx.get(f"{url}/v1/tutee/jobs/{job_id}", timeout=PATIENCE_S).json()
        if job["status"] in ("succeeded", "failed", "cancelled"):
            assert job["status"] == "succeeded" or job["error"]["code"] in ("not_enough_feedback",), job["error"]
            return str(job["status"])
        time.sleep(0.5)
    pytest.fail(f"job {job_id} did not end")


def check_store(home: Home, walk: Walk, jobs: list[str]) -> None:
    url = f"sqlite:///{home.home / 'tutee.db'}"
    store = Store.open(url, home.home)
    try:
        store.generations.interrupted()
        for message_id, text in walk.messages.items():
            assert store.messages.get(message_id, None).content == text
        for conversation in set(walk.conversations.values()):
            states = {message.state for message in store.messages.tree(conversation, None)}
            assert "streaming" not in states
        kept = {row.id for row in store.feedback.live()}
        assert walk.feedback <= kept
        versions = [version.job_id for version in store.versions.list() if version.job_id]
        assert len(versions) == len(set(versions)), "a job made two versions"
        for job_id in jobs:
            job = store.jobs.get(job_id)
            if job.status == "succeeded":
                losses = store.jobs.metrics(job_id)["loss"]
                steps = [step for step, _ in losses]
                assert steps == list(range(1, len(steps) + 1)), "steps are missing or double"
                assert job.progress["total_steps"] == job.progress["step"]
        assert store.audit.verify() is None
    finally:
        store.close()
    assert not [finding for finding in examine(url, home.home) if finding.level == "error"]
