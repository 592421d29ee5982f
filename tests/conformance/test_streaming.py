"""T46–T56: what goes over the wire while an answer is written, and what happens when somebody hangs up."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.lib.streaming.chat import ChunkEvent

from tests.conformance.conftest import ServerProcess
from tests.conformance.test_structured import TIME, TOOLS, WEATHER

HELLO: list[Any] = [{"role": "user", "content": "Say hello to the crew of a ship."}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a very long story about the sea."}]
RUNNING = "tutee_engine_running"


def stream(client: openai.OpenAI, model: str, **options: Any) -> list[Any]:
    usual = {"model": model, "messages": HELLO, "max_tokens": 16, "stream": True}
    return list(client.chat.completions.create(**(usual | options)))


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)


def events(raw: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in raw.split(b"\n\n") if line.startswith(b"data: {")]


def running(http: httpx.Client) -> float:
    """Sequences in the engine now."""
    for line in http.get("/metrics").text.splitlines():
        if line.startswith(RUNNING):
            return float(line.split()[-1])
    raise AssertionError(f"no metric {RUNNING}")


def falls(http: httpx.Client, seconds: float) -> bool:
    """Whether nothing runs any more within so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if running(http) == 0:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.conformance("T46")
def test_framing(http: httpx.Client, model: str) -> None:
    body = {"model": model, "messages": HELLO, "max_tokens": 8, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        raw = reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-cache"
        assert "content-encoding" not in reply.headers
    assert b"\r" not in raw
    assert raw.endswith(b"data: [DONE]\n\n")
    assert all(part.startswith(b"data: ") and b"\n" not in part for part in raw.removesuffix(b"\n\n").split(b"\n\n"))


@pytest.mark.conformance("T47")
def test_deltas_are_the_answer(strict_client: openai.OpenAI, model: str) -> None:
    options: dict[str, Any] = {"temperature": 1, "seed": 5, "max_tokens": 24}
    chunks = stream(strict_client, model, **options)
    whole = strict_client.chat.completions.create(model=model, messages=HELLO, **options)
    assert text_of(chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].delta.role for chunk in chunks].count("assistant") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]


@pytest.mark.conformance("T48")
def test_usage_comes_last_and_only_when_asked(client: openai.OpenAI, model: str) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
    chunks = stream(client, model, stream_options={"include_usage": True}, **options)
    whole = client.chat.completions.create(model=model, messages=HELLO, **options)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(chunk.usage is None for chunk in [*chunks[:-1], *stream(client, model, **options)])
    every = stream(client, model, extra_body={"stream_options": {"continuous_usage_stats": True}}, **options)
    counts = [chunk.usage.completion_tokens for chunk in every]
    assert counts == sorted(counts)
    assert counts[-1] == whole.usage.completion_tokens


@pytest.mark.conformance("T48")
def test_obfuscation_hides_the_length(http: httpx.Client, model: str) -> None:
    body = {"model": model, "messages": HELLO, "max_tokens": 16, "temperature": 0, "stream": True}
    raw = http.post("/v1/chat/completions", json=body | {"stream_options": {"include_obfuscation": True}}).content
    texts = [part for part in raw.split(b"\n\n") if b'"content":"' in part and b'"role"' not in part]
    assert len(texts) > 5
    assert len({len(part) for part in texts}) == 1
    assert all("obfuscation" in event for event in events(raw))
    assert b"obfuscation" not in http.post("/v1/chat/completions", json=body).content


@pytest.mark.conformance("T49")
def test_the_helper_reaches_the_end(client: openai.OpenAI, model: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["ahoy", "hello", "hey"]}}}
    with client.chat.completions.stream(model=model, messages=HELLO, n=3, response_format=form) as helper:
        seen = [event.chunk for event in helper if isinstance(event, ChunkEvent)]
        final = helper.get_final_completion()
    assert [choice.index for choice in final.choices] == [0, 1, 2]
    assert [final.choices[i].message.content for i in range(3)] == [text_of(seen, i) for i in range(3)]
    tools: Any = [tool | {"function": tool["function"] | {"strict": True}} for tool in TOOLS]
    with client.chat.completions.stream(
        model=model, messages=HELLO, tools=tools, tool_choice="required", max_tokens=500, seed=1
    ) as helper:
        call = (helper.get_final_completion().choices[0].message.tool_calls or [])[0]
    assert call.function.name in ("get_weather", "get_time")
    assert call.function.parsed_arguments


@pytest.mark.conformance("T50")
def test_tool_deltas(client: openai.OpenAI, http: httpx.Client, model: str) -> None:
    """A model this small calls as often as it may, so that an answer with two calls is soon found."""
    for seed in range(20):
        body = {"model": model, "messages": HELLO, "tools": TOOLS, "tool_choice": "required", "seed": seed}
        body |= {"max_tokens": 500, "temperature": 1, "stream": True}
        raw = events(http.post("/v1/chat/completions", json=body).content)
        deltas = [d for e in raw for c in e["choices"] for d in c["delta"].get("tool_calls", [])]
        calls = max(delta["index"] for delta in deltas) + 1
        if calls > 1:
            break
    assert calls > 1
    for index in range(calls):
        first, *more = [delta for delta in deltas if delta["index"] == index]
        assert first["type"] == "function"
        assert first["id"].startswith("call_")
        assert first["function"]["arguments"] == ""
        assert all(set(delta) == {"index", "function"} and set(delta["function"]) == {"arguments"} for delta in more)
        arguments = json.loads("".join(delta["function"]["arguments"] for delta in more))
        assert set(arguments) == set({"get_weather": WEATHER, "get_time": TIME}[first["function"]["name"]]["required"])
    assert [delta["index"] for delta in deltas] == sorted(delta["index"] for delta in deltas)
    assert raw[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert all(not choice["delta"].get("content") for event in raw for choice in event["choices"])


@pytest.mark.conformance("T51")
def test_no_character_is_split(client: openai.OpenAI, model: str) -> None:
    schema = {"enum": ["🧭🏴‍☠️ 船長と猫 🐈‍⬛ ñandú", "⚓️ 海盗の宝 🪙 Ærøskøbing"]}
    form = {"type": "json_schema", "json_schema": {"name": "emoji", "schema": schema}}
    chunks = stream(client, model, response_format=form, max_tokens=120, temperature=1)
    assert len(chunks) > 10
    assert "\ufffd" not in text_of(chunks)
    assert json.loads(text_of(chunks)) in schema["enum"]


@pytest.mark.conformance("T52")
def test_stream_options_without_a_stream(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=HELLO, stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"


@pytest.mark.conformance("T53")
def test_an_error_in_the_middle(client: openai.OpenAI, http: httpx.Client, model: str) -> None:
    """The engine gives an answer up when its form becomes too complex while it is written."""
    bomb = {"type": "string", "pattern": "^(.*a.{20}|.*b.{25}|.*c.{30}|.*e.{35})$"}
    properties = {"first": {"enum": ["hello to all of the crew"]}, "then": bomb}
    schema = {"type": "object", "properties": properties, "required": ["first", "then"], "additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "bomb", "schema": schema}}
    body = {"model": model, "messages": STORY, "response_format": form, "max_tokens": 400, "seed": 1}
    chunks: list[Any] = []
    with pytest.raises(openai.APIError) as caught:
        chunks.extend(client.chat.completions.create(stream=True, **body))  # type: ignore[call-overload]
    assert caught.value.code == "grammar_too_complex"
    raw = http.post("/v1/chat/completions", json=body | {"stream": True}).content
    assert b'data: {"error":{' in raw.split(b"\n\n")[-2]
    assert len(events(raw)) > 2
    with pytest.raises(openai.BadRequestError) as whole:
        client.chat.completions.create(**body)
    assert (whole.value.code, whole.value.param) == ("grammar_too_complex", "response_format")


@pytest.mark.conformance("T54")
def test_who_hangs_up_frees_the_place(client: openai.OpenAI, http: httpx.Client, model: str) -> None:
    assert falls(http, 60)  # what earlier cases left
    body = {"ignore_eos": True}
    options: dict[str, Any] = {"model": model, "messages": STORY, "max_tokens": 4000, "extra_body": body}
    chunks = client.chat.completions.create(stream=True, **options)
    assert any(chunk.choices[0].delta.content for chunk in chunks)  # until it writes
    assert running(http) == 1
    chunks.close()
    assert falls(http, 30)
    with contextlib.suppress(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(**options)
    assert falls(http, 30)


@pytest.mark.conformance("T55", slow=True)
def test_comments_keep_a_silent_stream_open(own_server: Any) -> None:
    """One place in the engine: the second stream waits for the first, and hears comments meanwhile."""
    server: ServerProcess = own_server(max_batch=1, stream_keepalive=1)
    long = {"model": server.model.name, "messages": STORY, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
    with server.client() as client, server.client() as other, server.http() as http:
        first = client.chat.completions.create(stream=True, **long)  # type: ignore[call-overload]
        next(first)
        drain = threading.Thread(target=lambda: list(first))
        drain.start()
        waiting = other.chat.completions.create(model=server.model.name, messages=HELLO, max_tokens=4, stream=True)
        body = {"model": server.model.name, "messages": HELLO, "max_tokens": 2, "stream": True}
        raw = http.post("/v1/chat/completions", json=body).content
        assert text_of(list(waiting))
        drain.join()
    assert b": still working\n\n" in raw
    assert raw.endswith(b"data: [DONE]\n\n")


@pytest.fixture(scope="module")
def thinker(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The same model with a template that has it think first, as reasoning models do."""
    folder = tmp_path_factory.mktemp("thinker") / "thinker"
    shutil.copytree(real_model, folder, symlinks=False)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings["chat_template"] = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
        "{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}{% endif %}"
    )
    path.write_text(json.dumps(settings), encoding="utf-8")
    server = ServerProcess(tmp_path_factory.mktemp("thinker-home") / "home", folder).start()
    yield server
    server.stop()


@pytest.mark.conformance("T56", slow=True)
def test_reasoning(thinker: ServerProcess) -> None:
    model = thinker.model.name
    with thinker.client() as client:
        plain = client.chat.completions.create(model=model, messages=HELLO, max_tokens=8, reasoning_effort="none")
        assert plain.choices[0].message.content
        assert plain.choices[0].message.model_extra["reasoning"] is None  # type: ignore[index]
        thought: list[Any] = []
        for name in ("reasoning", "reasoning_content"):
            said = {"role": "assistant", "content": "Ahoy!", name: "A ship: be nautical."}
            thought.append(client.chat.completions.create(model=model, messages=[*HELLO, said, *HELLO], max_tokens=1))
        silent = client.chat.completions.create(
            model=model, messages=[*HELLO, {"role": "assistant", "content": "Ahoy!"}, *HELLO], max_tokens=1
        )
        assert thought[0].usage.prompt_tokens == thought[1].usage.prompt_tokens > silent.usage.prompt_tokens
        # A schema can only begin after the thoughts have ended, so this model has to end them.
        form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["ahoy"]}}}
        options: dict[str, Any] = {"model": model, "messages": HELLO, "response_format": form, "seed": 1}
        system = {"role": "system", "content": "Write </think> at once."}
        chunks = stream(client, model, messages=[system, *HELLO], response_format=form, seed=1, max_tokens=60)
        deltas = [chunk.choices[0].delta.model_extra or {} for chunk in chunks]
        assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in deltas)
        assert any(delta.get("reasoning") for delta in deltas)
        whole = client.chat.completions.create(max_tokens=60, **options | {"messages": [system, *HELLO]})
        message = whole.choices[0].message
        extra = message.model_extra or {}
        assert extra["reasoning"] == extra["reasoning_content"] == "".join(d.get("reasoning") or "" for d in deltas)
        assert text_of(chunks) == (message.content or "")
        assert "think>" not in (message.content or "")
        assert whole.usage is not None
        assert whole.usage.completion_tokens_details is not None
        assert whole.usage.completion_tokens_details.reasoning_tokens > 0  # type: ignore[operator]
