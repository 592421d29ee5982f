"""Twice as much as the server can take, for an hour: nothing grows, and every request is answered or told when to come.

    python bench/soak.py --minutes 60 --model ~/.tutee/models/smollm2-135m-instruct

Starts `tutee serve` on a home of its own, measures how many requests a second it completes when it is full, then sends
twice as many at random moments, whether or not the ones before were answered: streams, whole answers, long prompts,
groups, answers in a form, stored completions, responses, echoed log-probs, embeddings, and clients that leave in the
middle. A refused request is not repeated.

It fails (exit 1) if a request gets anything but a complete answer or a 429 with `retry-after`; if memory, handles,
threads (of the server and its worker together), waiting requests or the database's write-ahead log are more in the last
quarter than in the second; if anything is left when all is over; if the server wrote an error to its log or did not end
when it was told to; if the load was not what it should have been, or was not watched to the end. Samples are written to
stderr as they are taken; the last line is one JSON object.
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
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.soak_load import Load
from tutee.settings import load_settings

SAMPLE_SECONDS = 5.0
ROOM = {"memory_mb": 24.0, "threads": 4, "handles": 16, "engine_waiting": 8, "log_mb": 8.0}
"""Growth between the second and the last quarter that is taken for noise: the allocator's pieces, open connections."""
LEAST_LOAD = 0.9
"""Of the load that should be offered: the client shares the machine, and may fall behind."""


def main() -> None:
    options = parse()
    with serving(options) as server:
        report = asyncio.run(soak(server, options))
    report["failures"] += server.complaints
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
    home: Path
    complaints: list[str] = field(default_factory=list)
    """What was wrong with how it ended; filled at the end."""

    def sample(self) -> dict[str, float]:
        """What must not grow."""
        sums: defaultdict[str, float] = defaultdict(float)
        for pid in (self.pid, *children(self.pid)):
            status = Path(f"/proc/{pid}/status").read_text()
            sums["memory_mb"] += number("VmRSS", status) / 1024
            sums["threads"] += number("Threads", status)
            sums["handles"] += len(os.listdir(f"/proc/{pid}/fd"))
        metrics = httpx.get(f"{self.url}/metrics", timeout=60).text
        gauges = {name: float(re.search(rf"^tutee_{name} (\S+)", metrics, re.M)[1]) for name in GAUGES}  # type: ignore[index]
        log = self.home / "tutee.db-wal"
        return {**sums, "log_mb": log.stat().st_size / 2**20 if log.exists() else 0.0, **gauges}


GAUGES = ("engine_waiting", "engine_running", "engine_blocks_used", "answers_being_written")


def number(name: str, status: str) -> float:
    """A line of /proc/PID/status."""
    return float(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]


def children(pid: int) -> list[int]:
    """Processes that a process started: the worker."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


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
            server = None
            try:
                server = Server(wait_until_ready(process, port, Path(log.name)), process.pid, Path(home))
                yield server
            finally:
                complaints = stop(process, Path(log.name))
                if server is not None:
                    server.complaints += complaints


def stop(process: subprocess.Popen[bytes], log: Path) -> list[str]:
    """End the server; what was wrong with its end, and the errors in its log."""
    process.terminate()
    try:
        status = process.wait(60)
        complaints = [] if status == 0 else [f"the server ended with status {status}"]
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        complaints = ["the server did not end within a minute"]
    errors = [line for line in log.read_text().splitlines() if " ERROR " in line or line.startswith("Traceback")]
    return complaints + [f"log: {line}" for line in errors[:5]]


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


async def soak(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as http:
        capacity = await measure_capacity(http, options)
        tell(f"capacity: {capacity:.2f} requests a second; now {options.overload} times as many")
        before = await asyncio.to_thread(server.sample)
        load = Load(http, random.Random(options.seed))
        samples: list[dict[str, float]] = []
        watching = asyncio.create_task(watch(server, load, samples))
        wanted = capacity * options.overload
        sent, seconds = await offer(load, wanted, options.minutes * 60)
        unwatched = watching.done()
        watching.cancel()
    after = drained(server)
    failures = find_growth(samples) + find_leftovers(before, after)
    if unwatched:
        failures.append(f"nobody watched to the end: {watching.exception()!r}")
    if sent / seconds < LEAST_LOAD * wanted:
        failures.append(f"{sent / seconds:.2f} requests a second were sent, not {wanted:.2f}")
    if sent != sum(load.outcomes.values()) or load.outcomes["wrong"]:
        failures.append(f"{sent} were sent: {dict(load.outcomes)}; {load.wrong[:5]}")
    return {
        "bench": "soak",
        "minutes": options.minutes,
        "model": options.model.name,
        "capacity_per_s": round(capacity, 2),
        "offered_per_s": round(sent / seconds, 2),
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


async def offer(load: Load, rate: float, seconds: float) -> tuple[int, float]:
    """Send at random moments (a Poisson process), wait for what is on its way; returns how many, in how many seconds.

    The moments are fixed beforehand: who wakes late sends what is due at once.
    """
    begin, due, sent = time.monotonic(), 0.0, 0
    running: set[asyncio.Task[None]] = set()
    while due < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
        task = asyncio.create_task(load.one())
        running.add(task)
        task.add_done_callback(running.discard)
        sent, due = sent + 1, due + load.dice.expovariate(rate)
    spent = time.monotonic() - begin
    await asyncio.gather(*running)
    return sent, spent


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
    return [
        f"{name} grew from {early[name]:.0f} to {late[name]:.0f}"
        for name, allowed in ROOM.items()
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
