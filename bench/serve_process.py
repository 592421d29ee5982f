"""Rows that need whole servers: what they hold in memory with a full cache, and how soon the first token comes.

Memory is compared for a cache of `streams * length` tokens, 16 bits a number, everybody's default: resident pages of
the process that computes, those of mapped files included. tutee and OpenVINO take memory as it is used, so their caches
are filled by as many conversations; llama.cpp clears its whole cache when it starts, so it holds all of it before the
first token, and one short conversation in each slot brings the rest (its working memory).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.peers import GGUF, LLAMA_BIN, Missing, Worker, random_prompts

PATIENCE_S = 600
BYTES_A_TOKEN = 23040
"""Of the default model's keys and values: 30 layers of 2 x 192 numbers of 16 bits."""
Server = AbstractContextManager[tuple[subprocess.Popen[bytes], str]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server until the block ends; entered when its `/health` says yes."""
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Missing(f"{Path(command[0]).name} ended with status {process.returncode}")
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # llama.cpp ends only when its batch has
            process.kill()
            process.wait()


@contextmanager
def tutee(model: Path, threads: int, streams: int, length: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`tutee serve` in a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    port = free_port()
    command = [sys.executable, "-m", "tutee", "serve", "--port", str(port), "--model", str(model)]
    environment = {
        "TUTEE_HOME": str(home),
        "TUTEE_THREADS": str(threads),
        "TUTEE_MAX_BATCH": str(streams),
        "TUTEE_CACHE_TOKENS": str(streams * length),
    }
    try:
        with running(command, f"http://127.0.0.1:{port}", **environment) as process:
            yield process, f"http://127.0.0.1:{port}/v1"
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def llama(threads: int, streams: int, length: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`llama-server` with a slot for each stream."""
    program, port = LLAMA_BIN / "llama-server", free_port()
    if not program.exists():
        raise Missing("`make bench-env` was not run")
    sizes = {"-t": threads, "-np": streams, "-c": streams * length, "--port": port, "--cache-ram": 0}
    options = [str(part) for pair in sizes.items() for part in pair]
    with running([str(program), "-m", str(GGUF["bf16"]), *options], f"http://127.0.0.1:{port}") as process:
        yield process, f"http://127.0.0.1:{port}/v1"


def resident_mib(pid: int) -> float:
    """What a process holds in memory now (its children not counted: tutee's worker sleeps without a model)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024)


def ask(url: str, text: str, tokens: int) -> int:
    """Tokens of prompt and answer of one chat completion."""
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    reply = httpx.post(f"{url}/chat/completions", json=body, timeout=PATIENCE_S).raise_for_status()
    return int(reply.json()["usage"]["total_tokens"])


def memory(model: Path, threads: int, streams: int, length: int, wanted: frozenset[str]) -> dict[str, Any]:
    """Resident memory with a cache of so many conversations of so many tokens."""

    def ours() -> tuple[float, int]:
        # A word is a token, give or take; the template takes some thirty more.
        return talk(tutee(model, threads, streams, length), streams, length - 64)

    def llama_cpp() -> tuple[float, int]:
        return talk(llama(threads, streams, length), streams, 16)

    def openvino() -> tuple[float, int]:
        worker = Worker("openvino", GGUF["f16"], threads, cache_gb=1 + streams * length * BYTES_A_TOKEN // 10**9)
        worker.seconds(random_prompts(streams, length - 16, 0), 8)
        worker.close()
        return round(worker.rss / 2**20), streams * (length - 8)

    mib: dict[str, float] = {}
    computed: dict[str, int] = {}
    missing: dict[str, str] = {}
    for name, measure in (("tutee", ours), ("llama.cpp", llama_cpp), ("openvino", openvino)):
        if name != "tutee" and name not in wanted:
            continue
        try:
            mib[name], computed[name] = measure()
            print(f"  {name}: {mib[name]} MiB, {computed[name]} tokens computed", flush=True)
        except (Missing, httpx.HTTPError) as error:
            missing[name] = str(error)
    row = {"cache_tokens": streams * length, "tokens_computed": computed, "rss_mib": mib, "missing": missing}
    peers = [size for name, size in mib.items() if name != "tutee"]
    ratio = {"smaller_peer": round(mib["tutee"] / min(peers), 2)} if peers and "tutee" in mib else {}
    return row | {"ratio": ratio, "goal": {"smaller_peer": 1.2}}


def talk(server: Server, streams: int, words: int) -> tuple[float, int]:
    """(resident memory, tokens) after a conversation of so many words with each of so many people at once."""
    with server as (process, url), ThreadPoolExecutor(streams) as clients:
        texts = [" ".join([f"{i}", *["time"] * words]) for i in range(streams)]
        tokens = sum(clients.map(lambda text: ask(url, text, 8), texts))
        return resident_mib(process.pid), tokens


def start(model: Path, threads: int) -> dict[str, Any]:
    """Seconds from the command to the first streamed token; the second start, so that files are in the page cache."""
    for _ in range(2):
        begun = time.perf_counter()
        with tutee(model, threads, 8, 256) as (_, url):
            ready = time.perf_counter() - begun
            body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
            with httpx.stream("POST", f"{url}/chat/completions", json=body | {"max_tokens": 4}, timeout=60) as reply:
                for line in reply.iter_lines():
                    if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                        break
            first = time.perf_counter() - begun
    return {"ready_s": round(ready, 2), "first_token_s": round(first, 2), "goal": {"first_token_s": 4.0}}
