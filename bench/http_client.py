"""The client of `serve_http.py`: a process of its own that sends requests and counts the events of the replies.

It shares the machine with the server, so it does as little as it can: no event loop, no parsing, one `recv` and one
count for each piece that comes. Knows no server and no library.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
END = b"data: [DONE]"


class Stream:
    """One connection that sends one request; `read` counts the events of the reply."""

    def __init__(self, port: int, request: str) -> None:
        self.begun = time.perf_counter()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(request.encode())
        self.events, self.first_s = 0, 0.0
        self.over = False
        self._tail = b""

    def read(self) -> int:
        """Take what is there; how many events ended in it."""
        data = self.socket.recv(1 << 16)
        events = data.count(b"\n\n")
        self.events += events
        if not self.first_s and self.events > 1:  # the first event only says who speaks
            self.first_s = time.perf_counter() - self.begun
        self.over = not data or END in self._tail + data or data.startswith(b"HTTP/1.1 4")
        self._tail = data[-len(END) :]
        return events


class Plateau:
    """The events that came after every stream had begun and before the first was over."""

    def __init__(self, streams: int) -> None:
        self.events, self.seconds = 0, 0.0
        self._to_begin = streams
        self._since = 0.0

    def count(self, stream: Stream, events: int) -> None:
        """A stream was read."""
        if self._to_begin and events and stream.events == events:
            self._to_begin -= 1
            self._since = time.perf_counter()
        elif not self._to_begin and not self.seconds:
            self.events += events
            if stream.over:
                self.seconds = time.perf_counter() - self._since


def run_client(port: int, requests: list[str], idle: list[str]) -> Json:
    """Send all requests at once, after `idle` ones whose replies are not waited for, and follow them to their ends."""
    waiting = [Stream(port, request) for request in idle]
    if waiting:
        time.sleep(1)
    poll, plateau = select.epoll(), Plateau(len(requests))
    begun, processor = time.perf_counter(), time.process_time()
    streams: list[Stream] = []
    running: dict[int, Stream] = {}

    def read(seconds: float) -> None:
        for number, _ in poll.poll(seconds):
            stream = running[number]
            plateau.count(stream, stream.read())
            if stream.over:
                poll.unregister(number)
                del running[number]

    for request in requests:
        stream = Stream(port, request)
        streams.append(stream)
        running[stream.socket.fileno()] = stream
        poll.register(stream.socket, select.EPOLLIN)
        read(0)
    while running:
        read(-1)
    seconds = time.perf_counter() - begun
    for stream in waiting + streams:
        stream.socket.close()
    return {
        "seconds": seconds,
        "processor_s": time.process_time() - processor,
        "events": sum(stream.events for stream in streams),
        "plateau_events": plateau.events,
        "plateau_s": plateau.seconds,
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
        print(json.dumps(run_client(**json.loads(line))), flush=True)
