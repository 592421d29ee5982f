"""Twice as much as the server can take, for an hour: nothing grows, and every request is answered or told when to come.

    python bench/soak.py --minutes 60 --model ~/.tutee/models/smollm2-135m-instruct

Starts `tutee serve` on a home of its own, measures how many requests a second it completes when it is full, then sends
twice as many at random moments, whether or not the ones before were answered: streams, whole answers, long prompts,
groups, stored completions, and clients that leave in the middle. A refused request is not repeated.

It fails (exit 1) if a request gets anything but a complete answer or a 429 with `retry-after`; if memory, waiting
requests, handles or threads are more in the last quarter than in the second; if anything is left when all is over.
Samples are written to stderr as they are taken; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tutee.settings import load_settings

SAMPLE_SECONDS = 5.0
WORDS = ("cat", "mat", "rain", "roof", "boat", "home", "salt", "rope", "lamp", "road", "bread", "river", "chess", "owl")
ROOM_MB = 24.0
"""Growth of memory that is taken for noise: the allocator's pieces, the database's pages."""


def main() -> None:
    options = parse()
    with serving(options) as server:
        report = asyncio.run(soak(server, options))
    print(json.dumps(report))
    sys.exit(0 if not report["failures"] else 1)


def parse() -> argparse.Namespace:
    settings = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", type=Path, default=settings.home / "models" / settings.model)
    parser.add_argument(
        "--overload", type=float, default=2.0, help="offered load as a multiple of the measured capacity"
    )
    parser.add_argument("--measure-seconds", type=float, default=30.0, help="how long the capacity is measured")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--max-waiting", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="of the server's model; 0: one a core")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        parser.error(f"no model in {options.model}; `tutee serve` fetches the default one, --model names another.")
    return options


@dataclass
class Server:
    """A server process and how to look at it."""

    url: str
    pid: int

    def sample(self) -> dict[str, float]:
        """What must not grow."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = {name: float(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads")}  # type: ignore[index]
        metrics = httpx.get(f"{self.url}/metrics", timeout=30).text
        gauges = {name: float(re.search(rf"^tutee_{name} (\S+)", metrics, re.M)[1]) for name in GAUGES}  # type: ignore[index]
        return {
            "memory_mb": found["VmRSS"] / 1024,
            "threads": found["Threads"],
            "handles": float(len(os.listdir(f"/proc/{self.pid}/fd"))),
            **gauges,
        }


GAUGES = ("engine_waiting", "engine_running", "engine_blocks_used", "answers_being_written")


@contextlib.contextmanager
def serving(options: argparse.Namespace) -> Iterator[Server]:
    """A server on a fresh home and a free port, ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tutee-soak-") as home:
        environment = {
            **os.environ,
            "TUTEE_HOME": home,
            "TUTEE_MAX_BATCH": str(options.max_batch),
            "TUTEE_MAX_WAITING": str(options.max_waiting),
        }
        command = [sys.executable, "-m", "tutee", "serve", "--port", str(port), "--threads", str(options.threads)]
        with (Path(home) / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--model", str(options.model.resolve())], env=environment, stdout=log, stderr=log
            )
            try:
                yield Server(wait_until_ready(process, port, Path(log.name)), process.pid)
            finally:
                process.terminate()
                process.wait(60)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    url = f"http://127.0.0.1:{port}"
    for _ in range(480):
        if process.poll() is not None:
            raise SystemExit(f"the server ended: {log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return url
        time.sleep(0.25)
    raise SystemExit(f"the server was not ready in two minutes: {log.read_text()[-2000:]}")


@dataclass
class Load:
    """Sends requests of every kind and counts what became of them."""

    http: httpx.AsyncClient
    dice: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)
    first_text: list[float] = field(default_factory=list)

    async def one(self) -> None:
        """One request of a random kind, from a random one of eight people."""
        kind, send = self.dice.choices(KINDS, WEIGHTS)[0]
        headers = {"X-Tutee-Actor": f"person{self.dice.randrange(8)}"}
        try:
            outcome = await send(self, headers)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            outcome = f"wrong: {type(error).__name__} {error}"
        self.outcomes[outcome if outcome in ("answered", "refused", "left") else "wrong"] += 1
        if outcome.startswith("wrong"):
            self.wrong.append(f"{kind}: {outcome}"[:300])

    def question(self, words: int) -> dict[str, Any]:
        content = "Go on: " + " ".join(self.dice.choices(WORDS, k=words))
        return {
            "model": "chat",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.dice.randint(16, 64),
            "temperature": 0.8,
        }

    def refused(self, reply: httpx.Response) -> str:
        if reply.status_code != 429 or not reply.headers.get("retry-after", "").isdigit():
            return f"wrong: {reply.status_code} retry-after {reply.headers.get('retry-after')}"
        self.retry_after.append(float(reply.headers["retry-after"]))
        return "refused"

    async def whole(self, headers: dict[str, str], words: int = 12, **more: Any) -> str:
        reply = await self.http.post("/v1/chat/completions", json=self.question(words) | more, headers=headers)
        if reply.status_code != 200:
            return self.refused(reply)
        choices = reply.json()["choices"]
        complete = len(choices) == more.get("n", 1) and all(c["finish_reason"] in ("stop", "length") for c in choices)
        return "answered" if complete else f"wrong: {choices}"

    async def stream(self, headers: dict[str, str], words: int = 12, leave_after: int | None = None) -> str:
        question, begin = self.question(words) | {"stream": True}, time.monotonic()
        async with self.http.stream("POST", "/v1/chat/completions", json=question, headers=headers) as reply:
            if reply.status_code != 200:
                return self.refused(reply)
            last, events = "", 0
            async for line in reply.aiter_lines():
                if not line:
                    continue
                last, events = line, events + 1
                if events == 2:
                    self.first_text.append(time.monotonic() - begin)
                if leave_after is not None and events > leave_after:
                    return "left"
        return "answered" if last == "data: [DONE]" else f"wrong: the stream ended with {last!r}"


Send = Callable[[Load, dict[str, str]], Awaitable[str]]
KINDS: list[tuple[str, Send]] = [
    ("stream", lambda load, headers: load.stream(headers)),
    ("whole", lambda load, headers: load.whole(headers)),
    ("long prompt", lambda load, headers: load.stream(headers, words=1200)),
    ("group", lambda load, headers: load.whole(headers, n=4)),
    ("stored", lambda load, headers: load.whole(headers, store=True, metadata={"soak": "yes"})),
    ("leaves", lambda load, headers: load.stream(headers, leave_after=5)),
]
WEIGHTS = [50, 15, 8, 8, 9, 10]


async def soak(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as http:
        capacity = await measure_capacity(http, options)
        tell(f"capacity: {capacity:.2f} requests a second; now {options.overload} times as many")
        before = await asyncio.to_thread(server.sample)
        load = Load(http, random.Random(options.seed))
        samples: list[dict[str, float]] = []
        watching = asyncio.create_task(watch(server, load, samples))
        sent = await offer(load, capacity * options.overload, options.minutes * 60)
        watching.cancel()
    after = drained(server)
    failures = find_growth(samples) + find_leftovers(before, after)
    if sent != sum(load.outcomes.values()) or load.outcomes["wrong"]:
        failures.append(f"{sent} were sent: {dict(load.outcomes)}; {load.wrong[:5]}")
    return {
        "bench": "soak",
        "minutes": options.minutes,
        "model": options.model.name,
        "capacity_per_s": round(capacity, 2),
        "overload": options.overload,
        "requests": dict(load.outcomes),
        "retry_after_p50_s": middle(load.retry_after),
        "first_text_p50_s": middle(load.first_text),
        "second_quarter": quarter(samples, 1),
        "last_quarter": quarter(samples, 3),
        "at_the_end": after,
        "failures": failures,
    }


async def measure_capacity(http: httpx.AsyncClient, options: argparse.Namespace) -> float:
    """Requests completed a second while every place in the batch is taken."""
    load, end = Load(http, random.Random(options.seed + 1)), time.monotonic() + options.measure_seconds

    async def keep_asking() -> None:
        while time.monotonic() < end:
            await load.one()

    begin = time.monotonic()
    await asyncio.gather(*(keep_asking() for _ in range(options.max_batch)))
    if load.wrong:
        raise SystemExit(f"wrong answers before the load began: {load.wrong[:3]}")
    return (load.outcomes["answered"] + load.outcomes["left"]) / (time.monotonic() - begin)


async def offer(load: Load, rate: float, seconds: float) -> int:
    """Send at random moments (a Poisson process), wait for what is on its way; returns how many were sent."""
    end, sent = time.monotonic() + seconds, 0
    running: set[asyncio.Task[None]] = set()
    while time.monotonic() < end:
        await asyncio.sleep(load.dice.expovariate(rate))
        task = asyncio.create_task(load.one())
        running.add(task)
        task.add_done_callback(running.discard)
        sent += 1
    await asyncio.gather(*running)
    return sent


async def watch(server: Server, load: Load, samples: list[dict[str, float]]) -> None:
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        samples.append(await asyncio.to_thread(server.sample))
        numbers = " ".join(f"{name} {value:.0f}" for name, value in samples[-1].items())
        tell(f"{len(samples) * SAMPLE_SECONDS:5.0f} s  {numbers}  {dict(load.outcomes)}")


def drained(server: Server) -> dict[str, float]:
    """The first sample in which nothing runs, or the last one after a minute."""
    for _ in range(60):
        time.sleep(1)
        sample = server.sample()
        if not any(sample[name] for name in GAUGES):
            break
    return sample


def find_growth(samples: list[dict[str, float]]) -> list[str]:
    early, late = quarter(samples, 1), quarter(samples, 3)
    room = {"memory_mb": max(ROOM_MB, 0.05 * early["memory_mb"]), "threads": 4, "handles": 16, "engine_waiting": 8}
    return [
        f"{name} grew from {early[name]:.0f} to {late[name]:.0f}"
        for name, allowed in room.items()
        if late[name] > early[name] + allowed
    ]


def find_leftovers(before: dict[str, float], after: dict[str, float]) -> list[str]:
    left = [f"{name} is {after[name]:.0f} when all is over" for name in GAUGES if after[name]]
    if after["handles"] > before["handles"] + 16:
        left.append(f"handles were {before['handles']:.0f}, are {after['handles']:.0f}")
    return left


def quarter(samples: list[dict[str, float]], number: int) -> dict[str, float]:
    """The median of every number over a quarter (0 to 3) of the samples."""
    part = samples[len(samples) * number // 4 : len(samples) * (number + 1) // 4] or samples[-1:]
    return {name: round(statistics.median(sample[name] for sample in part), 1) for name in part[0]}


def middle(values: list[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
