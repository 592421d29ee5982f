"""Tools, forms and streams of chat completions on a tiny random model: every choice of a token is a coin toss."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import Running, serving
from tutee.serve.wire import COMMENT
from tutee.settings import Settings

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
ARGUMENTS = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": ARGUMENTS}} for name in ("get_weather", "get_time")
]


def ask(sdk: openai.OpenAI, **options: Any) -> Any:
    return sdk.chat.completions.create(**({"model": "chat", "messages": HELLO, "max_tokens": 900, "seed": 1} | options))


def joined(chunks: list[Any]) -> tuple[str, list[list[str]], str | None]:
    """(content, [id, name, arguments] of each call, finish reason) of a stream."""
    content, calls, reason = "", list[list[str]](), None
    for choice in (chunk.choices[0] for chunk in chunks):
        content += choice.delta.content or ""
        for delta in choice.delta.tool_calls or []:
            if delta.index == len(calls):
                calls.append(["", "", ""])
            parts = (delta.id, delta.function.name, delta.function.arguments)
            calls[delta.index] = [have + (more or "") for have, more in zip(calls[delta.index], parts, strict=True)]
        reason = reason or choice.finish_reason
    return content, calls, reason


@pytest.mark.parametrize("seed", range(4))
def test_a_required_call_is_the_same_streamed(sdk: openai.OpenAI, seed: int) -> None:
    whole = ask(sdk, tools=TOOLS, tool_choice="required", seed=seed).choices[0]
    content, calls, reason = joined(list(ask(sdk, tools=TOOLS, tool_choice="required", seed=seed, stream=True)))
    assert (content, whole.message.content, whole.finish_reason, reason) == ("", None, "tool_calls", "tool_calls")
    assert [call[1:] for call in calls] == [
        [call.function.name, call.function.arguments] for call in whole.message.tool_calls
    ]
    assert all(json.loads(arguments)["city"] in ("Oslo", "Rome") for _, _, arguments in calls)
    assert len({id for id, _, _ in calls}) == len(calls)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "get_time"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOLS[1]]}},
    ],
    ids=["named", "allowed"],
)
def test_only_the_named_tool_is_called(sdk: openai.OpenAI, choice: Any) -> None:
    calls = ask(sdk, tools=TOOLS, tool_choice=choice).choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_time"]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("required", "tool_calls"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOLS[1]]}}, "tool_calls"),
        ({"type": "function", "function": {"name": "get_time"}}, "stop"),
    ],
    ids=["required", "allowed", "named"],
)
def test_how_an_answer_of_calls_ends(sdk: openai.OpenAI, choice: Any, reason: str) -> None:
    whole = ask(sdk, tools=TOOLS, tool_choice=choice).choices[0]
    _, calls, streamed = joined(list(ask(sdk, tools=TOOLS, tool_choice=choice, stream=True)))
    assert whole.message.tool_calls
    assert len(calls) == len(whole.message.tool_calls)
    assert (whole.finish_reason, streamed) == (reason, reason)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
def test_length_wins_over_tool_calls(sdk: openai.OpenAI, choice: Any) -> None:
    asked = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 12}
    assert ask(sdk, **asked).choices[0].finish_reason == "length"
    assert joined(list(ask(sdk, **asked, stream=True)))[2] == "length"


def test_several_choices_call_each_for_itself(sdk: openai.OpenAI) -> None:
    choices = ask(sdk, tools=TOOLS, tool_choice="required", n=3).choices
    ids = [call.id for choice in choices for call in choice.message.tool_calls]
    assert len(set(ids)) == len(ids) >= 3


def test_a_form_and_tools_in_one_request(sdk: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "no"]}, "strict": True}}
    messages = [ask(sdk, tools=TOOLS, response_format=form, seed=seed).choices[0].message for seed in range(6)]
    assert all((message.content is None) == bool(message.tool_calls) for message in messages)
    assert all(json.loads(message.content) in ("yes", "no") for message in messages if message.content)


def test_log_probs_stay_with_the_tokens_of_a_call(sdk: openai.OpenAI) -> None:
    choice = ask(sdk, tools=TOOLS, tool_choice="required", logprobs=True, top_logprobs=1).choices[0]
    text = bytes(byte for entry in choice.logprobs.content for byte in entry.bytes).decode()
    assert text.startswith('<tool_call>\n{"name": "')
    assert min(entry.logprob - entry.top_logprobs[0].logprob for entry in choice.logprobs.content) < -1


def test_the_usage_of_every_event_grows(server: Running) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(ask(server.sdk(), stream=True, max_tokens=9, extra_body={"ignore_eos": True}, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 9)


def test_obfuscated_events_are_as_long_as_each_other(http: httpx.Client) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 20, "ignore_eos": True, "seed": 1, "stream": True}
    raw = http.post("/v1/chat/completions", json=body | {"stream_options": {"include_obfuscation": True}}).content
    lengths = {len(event) for event in raw.split(b"\n\n") if b'"delta":{"content"' in event}
    assert len(lengths) == 1


def test_a_strict_server_refuses_unknown_fields(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(strict=True)) as running:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(running.sdk(), extra_body={"foo": 1})
        assert (caught.value.param, caught.value.code) == ("foo", "unknown_parameter")
        assert ask(running.sdk(), max_tokens=1).choices


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 2}),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 2}),
    ],
)
def test_a_silent_stream_hears_comments(make_home: Callable[..., Settings], path: str, asked: dict[str, Any]) -> None:
    """The only place in the engine is taken for longer than the silence that is allowed."""
    long = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}, "stream": True}
    with serving(make_home(max_batch=1, stream_keepalive=1)) as running, running.http() as http:
        first = ask(running.sdk(), **long)
        next(first)
        with http.stream("POST", path, json={"model": "chat", "stream": True, **asked}) as reply:
            pieces, heard = reply.iter_raw(), b""
            while COMMENT not in heard:
                heard += next(pieces)
            first.close()
            heard += b"".join(pieces)
        assert heard.endswith(b"data: [DONE]\n\n")
        chunks = list(ask(running.sdk(), max_tokens=2, stream=True))
        assert chunks[-1].choices[0].finish_reason


def test_deep_json_is_refused_at_once(http: httpx.Client) -> None:
    deep = b'{"model":"chat","messages":[{"role":"user","content":"x"}],"response_format":' + b"[" * 10**6 + b"}"
    reply = http.post("/v1/chat/completions", content=deep[: 1 << 20], headers={"content-type": "application/json"})
    assert reply.status_code == 400
