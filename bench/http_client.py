"""The client of `serve_http.py`: a process of its own that sends requests and counts the events of the replies.

Knows no server and no library: parsing replies properly would take more of the machine than making them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

Json = dict[str, Any]


class Stream(asyncio.Protocol):
    """One connection that sends one request and counts the events of the reply."""

    def __init__(self, request: bytes, done: Callable[[], None]) -> None:
        self.request, self._done, self._over = request, done, False
        self.events, self.tail = 0, b""
        self.first_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.begun = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"\n\n")
        if not self.first_s and self.events > 1:  # the first event only says who speaks
            self.first_s = time.perf_counter() - self.begun
        self.tail = (self.tail + data)[-32:]
        if b"[DONE]" in self.tail or b"HTTP/1.1 4" in data[:10]:
            self.done()

    def connection_lost(self, error: Exception | None) -> None:
        self.done()

    def done(self) -> None:
        """Say once that the reply is over: the last event and the end of the connection both tell."""
        if not self._over:
            self._over = True
            self._done()


def identity(stream: Stream) -> Stream:
    return stream


async def run_client(port: int, requests: list[str], idle: list[str]) -> Json:
    """Send all requests at once, after `idle` ones whose replies are not waited for, and follow them to their ends."""
    loop, left, over = asyncio.get_running_loop(), len(requests), asyncio.Event()

    def done() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            over.set()

    waiting = [Stream(request.encode(), lambda: None) for request in idle]
    opened = [await loop.create_connection(partial(identity, each), "127.0.0.1", port) for each in waiting]
    if waiting:
        await asyncio.sleep(1)
    begun = time.perf_counter()
    streams = [Stream(request.encode(), done) for request in requests]
    opened += [await loop.create_connection(partial(identity, each), "127.0.0.1", port) for each in streams]
    await over.wait()
    seconds = time.perf_counter() - begun
    for transport, _ in opened:
        transport.close()
    return {
        "seconds": seconds,
        "events": sum(stream.events for stream in streams),
        "ttft_s": sorted(stream.first_s for stream in streams),
    }


def request(body: Json, path: str) -> str:
    text = json.dumps(body)
    return (
        f"POST {path or '/v1/chat/completions'} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
    )


class Client:
    """The client process; each call is one line of JSON in and one out."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, port: int, bodies: Sequence[Json], idle: Sequence[str] = (), path: str = "") -> Json:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        call = {"port": port, "requests": [request(body, path) for body in bodies], "idle": list(idle)}
        print(json.dumps(call), file=self.process.stdin, flush=True)
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(asyncio.run(run_client(**json.loads(line)))), flush=True)
