"""What HTTP costs: the engine alone against the same engine through the API, and the API without any engine.

    python bench/serve_http.py --model ~/.tutee/models/smollm2-135m-instruct

The client is another process on this machine, the same for all (`http_client.py`). In one run, turn about:

- engine: prompts submitted in the server's process; http: the same prompts as streamed chat completions. Tokens per
  second over the wall time with prefill, and seconds to the first token.
- idle: as http, while `--idle` other people follow answers that say nothing.
- one at a time: milliseconds to the first token of a short prompt on an idle engine, both ways.
- api alone: an engine that computes nothing. `at once` emits everything as soon as it is asked, `in step` gives each
  stream one chunk and waits until the event loop has written them, which is what serving is. Beside it a bare Starlette
  route that writes the same bytes; chunks per second from the first request to the last event, and while all streams
  are open (`open`), and processor time a chunk and a request.

The last line is one JSON object. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from http_client import Client, Json

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")
STEPS_ALONE = 200


# --- servers in this process ---------------------------------------------------------------------------------------


@contextmanager
def listening(app: Any) -> Iterator[tuple[int, asyncio.AbstractEventLoop]]:
    """The app on a free port as `tutee serve` runs it, in a thread; its port and event loop."""
    import socket

    import uvicorn

    from tutee.serve.run import uvicorn_config

    loops: list[asyncio.AbstractEventLoop] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if not loops:
            loops.append(asyncio.get_running_loop())
        await app(scope, receive, send)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn_config(noting))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not loops:
            time.sleep(0.05)
            with socket.socket() as probe:
                if server.started and not probe.connect_ex(("127.0.0.1", port)):
                    probe.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
                    probe.recv(1000)
        yield port, loops[0]
        server.should_exit = True
        thread.join(15)


class NoEngine:
    """Answers every request with as many chunks as it asks for tokens, and computes nothing."""

    context_length = 1 << 20

    def __init__(self, handed_over: Callable[[], None] = lambda: None) -> None:
        self.handed_over = handed_over
        self.asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, prompt: Any, params: Any, *, version: str, priority: int, owner: Any, on_chunk: Any) -> Any:
        from tutee.engine.request import Request

        request = Request(tuple(prompt), params, version=version, priority=priority, owner=owner, on_chunk=on_chunk)
        self.asked.put(request)
        return request

    def _run(self) -> None:
        from tutee.engine.request import Chunk

        while True:
            running = [(request, request.params.max_tokens) for request in self._news()]
            version = running[0][0].version
            word, last = (Chunk(" word", (1,), version, (-1.0,), (), reason) for reason in (None, "length"))
            while running:
                left = []
                for request, count in running:
                    request.deliver(word if count > 1 else last)
                    if count > 1 and not request.aborted:
                        left.append((request, count - 1))
                self.handed_over()
                running = left + [(request, request.params.max_tokens) for request in self._news(wait=not left)]

    def _news(self, wait: bool = True) -> list[Any]:
        found = [self.asked.get()] if wait else []
        while not self.asked.empty():
            found.append(self.asked.get())
        return found


# --- measuring -----------------------------------------------------------------------------------------------------


def body(streams: int, index: int, words: int, new_tokens: int) -> Json:
    dice = random.Random(1000 * streams + index)
    said = " ".join(dice.choice(WORDS) for _ in range(words))
    return {
        "model": "chat",
        "messages": [{"role": "system", "content": "."}, {"role": "user", "content": said}],
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


class Bench:
    """One open home with one engine, its server and the client."""

    def __init__(self, services: Any, port: int, client: Client, options: argparse.Namespace) -> None:
        self.services, self.port, self.client, self.options = services, port, client, options
        self.served = services.live.chat
        count, new = options.streams, options.new_tokens
        self.bodies = [body(count, i, options.prompt_tokens - 14, new) for i in range(count)]
        self.idle = list(self.silent_answers(options.idle))

    def engine(self, bodies: Sequence[Json]) -> Json:
        from tutee.conversation import merge_system_messages
        from tutee.serve.body import Fields
        from tutee.serve.chat.request import read_chat_request

        self.served.engine.weights_changed()  # no prefix of the run before may be found
        asked = [read_chat_request(Fields(each)) for each in bodies]
        prompts = [self.served.prompt(merge_system_messages(each.messages)) for each in asked]
        begun = time.perf_counter()
        done = self.served.engine.generate([prompt.ids for prompt in prompts], [each.params for each in asked])
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "ttft_s": sorted(group[0].ttft_s or 0.0 for group in done)}

    def silent_answers(self, count: int) -> Iterator[str]:
        """Requests that follow answers which are being written, in the store and in memory, by nobody."""
        from tutee.serve.native.answers import LiveAnswer
        from tutee.store.records import Showing, Start

        store = self.services.store
        owner = store.actors.get_or_create("owner").id
        chat = store.conversations.create(owner)
        turn = store.messages.add(chat.id, None, "user", "Anybody there?", owner)
        start = Start(self.served.version.id, [1], {}, "", "", "")
        for _ in range(count):
            message = self.services.stored.begin(chat.id, turn.id, owner, [start], Showing())[1][0]
            self.services.answers.keep(LiveAnswer(lambda: None), message, owner, self.services.stored)
            yield f"GET /v1/tutee/messages/{message.id}/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"

    def http(self, bodies: Sequence[Json], idle: Sequence[str] = ()) -> Json:
        self.served.engine.weights_changed()
        return self.client.run(self.port, bodies, idle)

    def throughput(self) -> Json:
        """Turn about, so that a change of the machine's speed falls on all."""
        runs: dict[str, list[Json]] = {"engine": [], "http": [], "idle": []}
        for _ in range(self.options.repeats):
            runs["engine"].append(self.engine(self.bodies))
            runs["http"].append(self.http(self.bodies))
            if self.idle:
                runs["idle"].append(self.http(self.bodies, self.idle))
        tokens = self.options.streams * self.options.new_tokens
        found: Json = {"streams": self.options.streams, "prompt_tokens": self.options.prompt_tokens}
        for name, each in runs.items():
            if each:
                fastest = min(each, key=lambda run: float(run["seconds"]))
                found[f"{name}_tok_s"] = round(tokens / fastest["seconds"], 1)
                found[f"{name}_ttft_p50_s"] = round(middle(fastest["ttft_s"]), 3)
        found["http_over_engine"] = round(found["http_tok_s"] / found["engine_tok_s"], 3)
        if self.idle:
            found |= {"idle": len(self.idle), "idle_over_http": round(found["idle_tok_s"] / found["http_tok_s"], 3)}
        return found

    def one_at_a_time(self) -> Json:
        ways: dict[str, Callable[[Sequence[Json]], Json]] = {"engine": self.engine, "http": self.http}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(self.options.alone):
            for name, way in ways.items():
                one = way([body(1, i, self.options.prompt_tokens - 14, 2)])
                seconds[name].append(one["ttft_s"][0])
        found = {f"{name}_ttft_p50_ms": round(middle(each) * 1000, 2) for name, each in seconds.items()}
        return found | {"http_minus_engine_ms": round(found["http_ttft_p50_ms"] - found["engine_ttft_p50_ms"], 2)}

    def api_alone(self, loop: asyncio.AbstractEventLoop) -> Json:
        import dataclasses

        turn = threading.Lock()
        turn.acquire()

        def taken() -> None:
            loop.call_soon_threadsafe(turn.release)  # behind the call that writes to all
            turn.acquire()

        found: Json = {}
        real = self.services.live._chat
        for name, handed_over in (("at_once", lambda: None), ("in_step", taken)):
            self.services.live._chat = dataclasses.replace(real, source=NoEngine(handed_over))
            found |= self._chunks(name, self.port, [each | {"max_tokens": STEPS_ALONE} for each in self.bodies])
        self.services.live._chat = dataclasses.replace(real, source=NoEngine())
        one_each = self._chunks("", self.port, [each | {"max_tokens": 1} for each in self.bodies], chunks=1)
        found["cpu_ms_per_request"] = round(one_each["_cpu_us_per_chunk"] / 1e3, 2)
        self.services.live._chat = real
        for name, each in (("starlette", True), ("starlette_joined", False)):
            with listening(starlette_echo(each)) as (port, _):
                found |= self._chunks(name, port, self.bodies, "/echo")
        for what in ("at_once_chunks_s", "in_step_chunks_s", "in_step_open_chunks_s"):
            way, echo = (
                what.removesuffix("_chunks_s"),
                what.replace("at_once", "starlette").replace("in_step", "starlette"),
            )
            found[f"{way}_over_starlette"] = round(found[what] / found[echo], 3)
        return found

    def _chunks(
        self, name: str, port: int, bodies: Sequence[Json], path: str = "", chunks: int = STEPS_ALONE
    ) -> dict[str, Any]:
        """The best of five runs: chunks a second, while all streams are open too, and the least processor time."""
        whole, plateau, cpu = 0.0, 0.0, float("inf")
        for _ in range(5):
            before = time.process_time()
            run = self.client.run(port, bodies, path=path)
            cpu = min(cpu, time.process_time() - before)
            whole = max(whole, run["events"] / run["seconds"])
            plateau = max(plateau, run["plateau_events"] / run["plateau_s"] if run["plateau_events"] else 0.0)
        return {
            f"{name}_chunks_s": round(whole),
            f"{name}_open_chunks_s": round(plateau),
            f"{name}_cpu_us_per_chunk": round(cpu / (len(bodies) * chunks) * 1e6, 1),
        }


def starlette_echo(one_by_one: bool) -> Any:
    """A bare Starlette app that streams the bytes of `STEPS_ALONE` chunks, prepared beforehand.

    Args:
        one_by_one: let the event loop go round after each, as whoever waits for the next one must; otherwise uvloop
            joins all chunks of a stream into one write.
    """
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    from tutee.serve.chat.events import ChatEvents, Event

    line = ChatEvents(Event("chatcmpl-0", 0, "chat", "0" * 12), 1).text(0, " word")

    async def lines() -> Any:
        for _ in range(STEPS_ALONE):
            yield line
            if one_by_one:
                await asyncio.sleep(0)
        yield b"data: [DONE]\n\n"

    async def echo(request: Any) -> StreamingResponse:
        await request.body()
        return StreamingResponse(lines(), media_type="text/event-stream")

    return Starlette(routes=[Route("/echo", echo, methods=["POST"])])


def main() -> None:
    options = parse()
    import torch

    from tutee.serve.app import build_app, open_services
    from tutee.serve.run import settle, share_the_processor
    from tutee.settings import Settings

    places = options.streams * (options.prompt_tokens + options.new_tokens + 32)
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(
            home=Path(home),
            model=str(options.model.resolve()),
            dtype=options.dtype,
            threads=options.threads,
            max_batch=options.streams,
            cache_tokens=places,
        )
        share_the_processor(settings)
        client = Client()
        with open_services(settings, worker=False) as services, listening(build_app(services)) as (port, loop):
            settle()
            bench = Bench(services, port, client, options)
            found: Json = {"bench": "http", "model": services.live.base.model.name, "threads": torch.get_num_threads()}
            bench.http(bench.bodies[:8])  # warm
            parts: dict[str, Callable[[], Json]] = {
                "api_alone": partial(bench.api_alone, loop),
                "one_at_a_time": bench.one_at_a_time,
                "throughput": bench.throughput,
            }
            for name in options.parts:
                found[name] = parts[name]()
                print(name, found[name], flush=True)
        client.close()
    print(json.dumps(found))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("~/.tutee/models/smollm2-135m-instruct").expanduser())
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=64, help="about: the prompt is made of short words")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--alone", type=int, default=20, help="requests one at a time")
    parser.add_argument("--repeats", type=int, default=2)
    parts = ["api_alone", "one_at_a_time", "throughput"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    return parser.parse_args()


if __name__ == "__main__":
    main()
