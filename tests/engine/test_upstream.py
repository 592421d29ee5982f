"""Another server as the engine: a real llama.cpp where it is built, and one that says whatever a test wants."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tutee.conversation import Message
from tutee.engine.request import Request, SamplingParams
from tutee.engine.upstream import Upstream
from tutee.engine.upstream_reply import LONGEST_LINE
from tutee.errors import Busy, InvalidInput, NotFound, TuteeError, Unavailable

HELLO = [Message("user", "Hello")]
BENCH = Path(__file__).parents[2] / ".venv-bench"
LLAMA_SERVER = BENCH / "src/llama.cpp/build/bin/llama-server"
MODEL = BENCH / "models/smollm2-bf16.gguf"
STREAM = "text/event-stream"

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Lets the scripted server's `reply` write what it likes."""

    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.server.keys.append(self.headers["authorization"])
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        try:
            self.server.reply(self)
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()
        self.close_connection = True

    def head(self, status: int = 200, kind: str = STREAM, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("connection", "close")
        self.end_headers()

    def event(self, content: Any) -> None:
        data = content if isinstance(content, str) else json.dumps(content)
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Scripted(ThreadingHTTPServer):
    """An upstream that replies as the test says, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.hung_up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[Scripted, Upstream]]]:
    opened: list[tuple[Scripted, Upstream]] = []

    def open_both(reply: Reply, **options: Any) -> tuple[Scripted, Upstream]:
        server = Scripted(reply)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        opened.append((server, Upstream(server.url, "their-model", version="ver-1", **options)))
        return opened[-1]

    yield open_both
    for server, upstream in opened:
        upstream.close()
        server.shutdown()
        server.server_close()


def says(text: str | None = None, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]}


def usual(*pieces: str, reason: str = "stop") -> Reply:
    """A well-behaved answer of these pieces."""

    def reply(handler: Handler) -> None:
        handler.head()
        for piece in pieces:
            handler.event(says(piece))
        handler.event(says(reason=reason))
        handler.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(pieces)}})
        handler.event("[DONE]")

    return reply


def says_nothing(handler: Handler) -> None:
    """Until the other side closes the connection."""
    handler.connection.recv(1)


def failure(request: Request) -> TuteeError:
    completion = request.result(60)
    assert completion.finish_reason == "error"
    assert isinstance(request.error, TuteeError)
    return request.error


def test_an_answer_with_its_counts(scripted: Any) -> None:
    server, upstream = scripted(usual("Hel", "lo", " there"), key="secret")
    params = SamplingParams(temperature=0.5, top_p=0.9, seed=3, max_tokens=9, stop=("END",), presence_penalty=1.0)
    request = upstream.submit([Message("system", "Be kind."), *HELLO], params)
    assert [chunk.text for chunk in request] == ["Hel", "lo", " there", ""]
    completion = request.result(60)
    assert (completion.text, completion.finish_reason) == ("Hello there", "stop")
    assert (completion.prompt_tokens, completion.generated_tokens, completion.token_ids) == (7, 3, ())
    assert completion.ttft_s is not None
    assert server.keys == ["Bearer secret"]
    assert server.bodies == [
        {
            "model": "their-model",
            "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
            "max_tokens": 9,
            "stop": ["END"],
            "presence_penalty": 1.0,
        }
    ]
    stats = upstream.stats
    assert (stats.running, stats.requests_total, stats.prompt_tokens_total) == (0, 1, 7)
    assert stats.generated_by_version == {"ver-1": 3}


def test_generate_keeps_the_order_and_seeds_each_sample(scripted: Any) -> None:
    def echo(handler: Handler) -> None:
        body = handler.server.bodies[-1]
        usual(f"{body['messages'][0]['content']}/{body['seed']}")(handler)

    _, upstream = scripted(echo, max_running=1)
    answers = upstream.generate([[Message("user", name)] for name in "ab"], SamplingParams(seed=5), n=2)
    assert [[answer.text for answer in group] for group in answers] == [["a/5", "a/6"], ["b/5", "b/6"]]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"top_k": 5}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"logit_bias": {3: 1.0}}, "logit_bias"),
        ({"logprobs": 0}, "logprobs"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"stop": ("a", "b", "c", "d", "e")}, "stop"),
    ],
)
def test_what_an_upstream_cannot_follow_is_refused_by_name(scripted: Any, params: dict[str, Any], param: str) -> None:
    server, upstream = scripted(usual("x"))
    with pytest.raises(InvalidInput) as caught:
        upstream.submit(HELLO, SamplingParams(**params))
    assert caught.value.param == param
    assert server.bodies == []


def test_token_ids_and_other_versions_are_refused(scripted: Any) -> None:
    _, upstream = scripted(usual("x"))
    with pytest.raises(InvalidInput, match="messages"):
        upstream.submit([1, 2, 3], SamplingParams())
    with pytest.raises(NotFound):
        upstream.submit(HELLO, SamplingParams(), version="ver-2")


@pytest.mark.parametrize("moment", ["queue", "head", "middle"])
def test_abort_closes_the_connection(scripted: Any, moment: str) -> None:
    """At every stage: before the reply begins, after its head, between two pieces."""
    asked = threading.Event()

    def endless(handler: Handler) -> None:
        if moment != "queue":
            handler.head()
        if moment == "middle":
            handler.event(says("Hel"))
        asked.set()
        if not handler.connection.recv(1):  # the other side has closed
            handler.server.hung_up.set()

    server, upstream = scripted(endless)
    request = upstream.submit(HELLO, SamplingParams())
    assert asked.wait(60)
    if moment == "middle":
        assert next(iter(request)).text == "Hel"
    request.abort()
    assert server.hung_up.wait(60)
    assert request.result(60).finish_reason == "abort"
    assert upstream.stats.running == 0


def test_closing_aborts_what_runs(scripted: Any) -> None:
    _, upstream = scripted(says_nothing)
    running, waiting = (upstream.submit(HELLO, SamplingParams()) for _ in range(2))
    upstream.close()
    assert running.result(60).finish_reason == waiting.result(60).finish_reason == "abort"
    with pytest.raises(Unavailable):
        upstream.submit(HELLO, SamplingParams())


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, InvalidInput, "context_length_exceeded"),
        (401, Unavailable, "upstream_refused_key"),
        (404, Unavailable, "upstream_model_not_found"),
        (500, Unavailable, "upstream_failed"),
        (302, Unavailable, "upstream_failed"),
    ],
)
def test_errors_keep_their_meaning(scripted: Any, status: int, kind: type[TuteeError], code: str) -> None:
    def refuse(handler: Handler) -> None:
        handler.head(status, "application/json", location="http://127.0.0.1:1/")
        error = {"message": "too\x1b long " * 99, "code": "context_length_exceeded", "param": "messages"}
        handler.wfile.write(json.dumps({"error": error}).encode())

    _, upstream = scripted(refuse)
    error = failure(upstream.submit(HELLO, SamplingParams()))
    assert isinstance(error, kind)
    assert error.code == code
    assert len(error.message) < 400
    assert "\x1b" not in error.message


def test_retry_after_is_respected(scripted: Any) -> None:
    moments: list[float] = []

    def reply(handler: Handler) -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            handler.head(429, retry_after="0.4")
        else:
            usual("at last")(handler)

    _, upstream = scripted(reply)
    assert upstream.submit(HELLO, SamplingParams()).result(60).text == "at last"
    assert moments[1] - moments[0] >= 0.4


def test_a_long_retry_after_is_passed_on(scripted: Any) -> None:
    server, upstream = scripted(lambda handler: handler.head(503, retry_after="60"))
    for _ in range(2):  # the second is not even sent
        error = failure(upstream.submit(HELLO, SamplingParams()))
        assert isinstance(error, Busy)
        assert 50 < error.retry_after <= 60
    assert len(server.bodies) == 1


def test_too_many_requests_are_busy(scripted: Any) -> None:
    _, upstream = scripted(says_nothing, max_running=1, max_waiting=1)
    requests = [upstream.submit(HELLO, SamplingParams()) for _ in range(2)]
    with pytest.raises(Busy):
        upstream.submit(HELLO, SamplingParams())
    for request in requests:
        request.abort()


def broken(*writes: bytes, kind: str = STREAM, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.head(kind=kind, **headers)
        for data in writes:
            handler.wfile.write(data)

    return reply


ENDLESS_LINE = b"data: " + b"x" * (LONGEST_LINE + 100)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (broken(b"data: {not json}\n\n"), "upstream_protocol"),
        (broken(b'data: {"choices": [{"delta": {"content": 7}}]}\n\n'), "upstream_protocol"),
        (broken(b'data: {"choices": [{"index": 1, "delta": {"content": "x"}}]}\n\n'), "upstream_protocol"),
        (broken(b"data: [1]\n\n"), "upstream_protocol"),
        (broken(b"[" * 5000, kind="application/json"), "upstream_protocol"),
        (broken(ENDLESS_LINE), "upstream_protocol"),
        (broken(b"x", content_encoding="gzip"), "upstream_protocol"),
        (broken(b'data: {"error": {"message": "out of memory"}}\n\n'), "upstream_failed"),
        (broken(b'data: {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}\n\n'), "upstream_failed"),
        (broken(b'data: {"choices": [{"delta": {"content": "Hal'), "upstream_protocol"),
        (broken(b'data: {"choices": [{"delta": {"content": "Half"}}]}\n\n'), "upstream_cut_off"),
        (broken(b"data: [DONE]\n\n"), "upstream_cut_off"),
    ],
)
def test_nothing_that_comes_back_is_trusted(scripted: Any, reply: Reply, code: str) -> None:
    _, upstream = scripted(reply)
    assert failure(upstream.submit(HELLO, SamplingParams())).code == code


def test_an_answer_without_end_is_cut(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutee.engine.upstream.LONGEST_ANSWER", 5000)

    def endless(handler: Handler) -> None:
        handler.head()
        while True:
            handler.event(says("x" * 1000))

    server, upstream = scripted(endless)
    assert failure(upstream.submit(HELLO, SamplingParams())).code == "upstream_protocol"
    assert server.hung_up.wait(60)


def test_odd_but_legal_streams(scripted: Any) -> None:
    """Comments, CRLF, several `data:` lines an event, unknown fields, thoughts, no usage, no [DONE]."""
    stream = (
        b": ping\r\n\r\n"
        b'event: message\r\ndata: {"id": 1, "choices": [\r\n'
        b'data: {"delta": {"role": "assistant", "reasoning_content": "hm", "content": null}}]}\r\n\r\n'
        b'data:{"choices":[{"index":0,"delta":{"content":"\xc3\xa9"},"finish_reason":"length"}]}\n\n'
    )
    _, upstream = scripted(broken(*(stream[i : i + 1] for i in range(len(stream)))))
    completion = upstream.submit(HELLO, SamplingParams()).result(60)
    assert (completion.text, completion.finish_reason, completion.generated_tokens) == ("é", "length", 0)


def test_counts_that_never_come_do_not_hold_the_end_up(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutee.engine.upstream.TAIL_S", 0.2)

    def hang(handler: Handler) -> None:
        handler.head()
        handler.event(says("done", "stop"))
        handler.connection.recv(1)

    _, upstream = scripted(hang)
    assert upstream.submit(HELLO, SamplingParams()).result(60).text == "done"


def test_silence_and_absence(scripted: Any) -> None:
    _, upstream = scripted(says_nothing, silence_s=0.2)
    assert failure(upstream.submit(HELLO, SamplingParams())).code == "upstream_cut_off"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Upstream(f"http://127.0.0.1:{free.getsockname()[1]}/v1", "m", version="v")
    assert failure(nobody.submit(HELLO, SamplingParams())).code == "upstream_unreachable"
    with pytest.raises(Unavailable):
        nobody.introduce()
    nobody.close()


def test_a_listener_that_raises_ends_its_request_alone(scripted: Any) -> None:
    _, upstream = scripted(usual("a", "b"))

    def bad(chunk: Any) -> None:
        raise RuntimeError("no room")

    assert upstream.submit(HELLO, SamplingParams(), on_chunk=bad).result(60).finish_reason == "error"
    assert upstream.submit(HELLO, SamplingParams()).result(60).text == "ab"
    assert upstream.stats.running == 0


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://key@host/v1", "http://h/v1?a=b"]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Upstream(url, "m", version="v")
    assert caught.value.param == "upstream"


def test_introduce_learns_the_context_and_misses_a_model(scripted: Any) -> None:
    def models(handler: Handler) -> None:
        handler.head(200, "application/json")
        handler.wfile.write(json.dumps({"data": [{"id": handler.server.name, "max_model_len": 8192}]}).encode())

    server, upstream = scripted(models)
    server.name = "their-model"
    upstream.introduce()
    assert upstream.context_length == 8192
    server.name = "another"
    with pytest.raises(NotFound, match="another"):
        upstream.introduce()


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The base URL of a running llama.cpp server with the default model."""
    if not LLAMA_SERVER.exists() or not MODEL.exists():
        pytest.skip("no llama.cpp here: `make bench-env` builds it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [LLAMA_SERVER, "-m", MODEL, "--port", port, "-t", "1", "-c", "4096", "-np", "2", "--alias", "smol"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    yield f"{url}/v1"
    process.terminate()
    process.wait(10)


@pytest.fixture
def smol(llama: str) -> Iterator[Upstream]:
    upstream = Upstream(llama, "smol", version="ver-llama")
    yield upstream
    upstream.close()


def test_llama_cpp_answers(smol: Upstream) -> None:
    smol.introduce()
    question = [Message("user", "What is the capital of France? Answer in one sentence.")]
    greedy = SamplingParams(temperature=0, seed=1, max_tokens=24)
    first, again = (smol.submit(question, greedy).result(60) for _ in range(2))
    assert "Paris" in first.text
    assert first.text == again.text
    assert first.finish_reason == "stop"
    assert first.prompt_tokens > 10
    assert 3 < first.generated_tokens <= 24


def test_llama_cpp_stops_where_it_is_told(smol: Upstream) -> None:
    params = SamplingParams(temperature=0, seed=1, max_tokens=5)
    cut = smol.submit([Message("user", "Count from one to twenty.")], params).result(60)
    assert (cut.finish_reason, cut.generated_tokens) == ("length", 5)
    words = smol.submit([Message("user", "Say: alpha beta")], SamplingParams(temperature=0, max_tokens=60, stop=("a",)))
    assert "a" not in words.result(60).text


def test_llama_cpp_frees_the_slot_of_an_aborted_answer(smol: Upstream, llama: str) -> None:
    request = smol.submit([Message("user", "Tell me a long story.")], SamplingParams(max_tokens=3000))
    next(iter(request))
    request.abort()
    assert request.result(60).finish_reason == "abort"
    deadline = time.monotonic() + 60
    while any(slot["is_processing"] for slot in httpx.get(f"{llama.removesuffix('/v1')}/slots").json()):
        assert time.monotonic() < deadline, "the slot is still busy"
        time.sleep(0.05)


def test_llama_cpp_says_when_a_prompt_is_too_long(smol: Upstream) -> None:
    error = failure(smol.submit([Message("user", "word " * 9000)], SamplingParams(max_tokens=4)))
    assert isinstance(error, InvalidInput)
    assert re.search("context|exceed", error.message)
