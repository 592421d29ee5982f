"""Chat completions through the official client in strict mode."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from tokenizers import pre_tokenizers

from tests.serve.conftest import Running, serving
from tutee.settings import Settings

END = 257
HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]


def ask(sdk: openai.OpenAI, **options: Any) -> Any:
    """Random weights end a turn at random, so that is ignored here."""
    usual = {"model": "chat", "messages": HELLO, "max_tokens": 8, "extra_body": {"ignore_eos": True}}
    return sdk.chat.completions.create(**(usual | options))


def streamed(sdk: openai.OpenAI, **options: Any) -> list[Any]:
    return list(ask(sdk, stream=True, **options))


def test_a_minimal_request_has_everything_that_clients_read(sdk: openai.OpenAI) -> None:
    body = {"ignore_eos": True}
    reply = sdk.chat.completions.create(model="chat", messages=HELLO, max_completion_tokens=8, extra_body=body)
    choice = reply.choices[0]
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8
    assert reply.id.startswith("chatcmpl-")
    assert reply.system_fingerprint


def test_streamed_is_unstreamed_at_temperature_zero(sdk: openai.OpenAI) -> None:
    whole = ask(sdk, temperature=0, max_tokens=60).choices[0].message.content
    pieces = streamed(sdk, temperature=0, max_tokens=60)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == whole


def test_a_seed_repeats_the_answer_and_its_stream(sdk: openai.OpenAI) -> None:
    first, again = (ask(sdk, seed=5, temperature=1, max_tokens=40) for _ in range(2))
    other = ask(sdk, seed=6, temperature=1, max_tokens=40)
    pieces = streamed(sdk, seed=5, temperature=1, max_tokens=40)
    text = first.choices[0].message.content
    assert again.choices[0].message.content == text
    assert again.system_fingerprint == first.system_fingerprint
    assert other.choices[0].message.content != text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == text


def test_several_choices_differ_and_are_counted_together(sdk: openai.OpenAI) -> None:
    reply = ask(sdk, n=3, temperature=1, max_tokens=12, seed=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) == 3
    assert reply.usage.completion_tokens == 36
    assert reply.choices[0].message.content == ask(sdk, max_tokens=12, seed=1, temperature=1).choices[0].message.content


def test_the_stream_helper_reaches_the_final_completion_with_three_choices(server: Running) -> None:
    # The token that ends a turn, made certain after five others: the helper refuses answers cut by length.
    ending: dict[str, Any] = {"logit_bias": {str(END): 100}, "extra_body": {"min_tokens": 5}}
    with server.sdk().chat.completions.stream(model="chat", messages=HELLO, n=3, **ending) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.message.role for choice in final.choices] == ["assistant"] * 3
    assert [choice.finish_reason for choice in final.choices] == ["stop"] * 3


def test_stream_has_one_role_and_one_finish_for_each_choice(sdk: openai.OpenAI) -> None:
    pieces = streamed(sdk, n=2, max_tokens=6)
    assert len({(piece.id, piece.created, piece.model) for piece in pieces}) == 1
    for index in range(2):
        own = [choice for piece in pieces for choice in piece.choices if choice.index == index]
        assert [choice.delta.role for choice in own if choice.delta.role] == ["assistant"]
        assert [choice.finish_reason for choice in own if choice.finish_reason] == ["length"]
        assert own[0].delta.role
        assert own[-1].finish_reason


def test_usage_comes_last_and_only_when_asked_for(sdk: openai.OpenAI) -> None:
    whole = ask(sdk, temperature=0, max_tokens=6).usage
    pieces = streamed(sdk, temperature=0, max_tokens=6, stream_options={"include_usage": True})
    assert pieces[-1].choices == []
    assert pieces[-1].usage.completion_tokens == whole.completion_tokens
    assert pieces[-1].usage.prompt_tokens == whole.prompt_tokens
    assert all(piece.usage is None for piece in pieces[:-1])
    assert all(piece.usage is None for piece in streamed(sdk, max_tokens=2))


def test_logprobs_spell_the_text_and_greedy_takes_the_likeliest(sdk: openai.OpenAI) -> None:
    reply = ask(sdk, temperature=0, max_tokens=20, logprobs=True, top_logprobs=3)
    entries = reply.choices[0].logprobs.content
    assert len(entries) == 20
    spelled = b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace")
    assert spelled == reply.choices[0].message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert math.isclose(entry.logprob, max(top.logprob for top in entry.top_logprobs), abs_tol=1e-6)
        assert entry.logprob <= 0
    assert ask(sdk, max_tokens=2, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_streamed_logprobs_are_the_unstreamed_ones(sdk: openai.OpenAI) -> None:
    whole = ask(sdk, temperature=0, max_tokens=12, logprobs=True).choices[0].logprobs.content
    pieces = streamed(sdk, temperature=0, max_tokens=12, logprobs=True)
    entries = [e for p in pieces for c in p.choices if c.logprobs for e in c.logprobs.content]
    assert [(e.token, e.bytes) for e in entries] == [(e.token, e.bytes) for e in whole]


def test_a_stop_string_ends_the_text_before_it(sdk: openai.OpenAI) -> None:
    text = ask(sdk, temperature=0, max_tokens=60).choices[0].message.content
    stop = text[10:13]
    reply = ask(sdk, temperature=0, max_tokens=60, stop=[stop], logprobs=True)
    choice = reply.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == text[: text.index(stop)]
    spelled = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content).decode("utf-8", "replace")
    assert spelled == choice.message.content


def test_logit_bias_forbids_a_token(sdk: openai.OpenAI) -> None:
    first = ask(sdk, temperature=0, max_tokens=1, logprobs=True).choices[0].logprobs.content[0]
    greedy = first.bytes[0]
    token = next(i for i in range(256) if bytes([greedy]) == _byte_of(i))
    banned = ask(sdk, temperature=0, max_tokens=1, logprobs=True, logit_bias={str(token): -100})
    assert banned.choices[0].logprobs.content[0].bytes != [greedy]
    forced = ask(sdk, temperature=0, max_tokens=3, logit_bias={str(token): 100}, logprobs=True)
    assert [entry.bytes for entry in forced.choices[0].logprobs.content] == [[greedy]] * 3


def _byte_of(token: int) -> bytes:
    """The tiny model's vocabulary is the sorted byte-level alphabet."""
    characters = pre_tokenizers.ByteLevel.alphabet()
    character = sorted(characters)[token]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    odd = [byte for byte in range(256) if byte not in plain]
    code = ord(character)
    return bytes([code if code < 256 else odd[code - 256]])


def test_null_fields_and_text_parts_are_accepted(sdk: openai.OpenAI, http: httpx.Client) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 4, "temperature": 0}
    nulls = dict.fromkeys(("user", "stop", "tools", "logit_bias", "n", "seed", "response_format", "metadata"))
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]}]
    plain, nulled, in_parts = (
        http.post("/v1/chat/completions", json=body | changes).json()["choices"][0]["message"]["content"]
        for changes in ({}, nulls, {"messages": parts})
    )
    assert plain == nulled == in_parts


def test_two_system_messages_and_a_developer_are_one_system_message(sdk: openai.OpenAI) -> None:
    two = [{"role": "developer", "content": "Be brief."}, {"role": "system", "content": "Be kind."}, *HELLO]
    one = [{"role": "system", "content": "Be brief.\n\nBe kind."}, *HELLO]
    texts = [ask(sdk, messages=m, temperature=0).choices[0].message.content for m in (two, one)]
    assert texts[0] == texts[1]


def test_unknown_fields_are_ignored_and_named(http: httpx.Client) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 1, "foo": 1, "stream_options": None, "bär": 2}
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200
    assert reply.headers["x-ignored-params"] == "foo,b?r"


def tool(name: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters} | more}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def schema(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": content} | more}


def nested(levels: int) -> dict[str, Any]:
    """A schema that deep."""
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        inner = {"type": "array", "items": inner}
    return inner


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0]",
        "invalid_value",
    ),
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 3}, "model", "invalid_type"),
    ({"temperature": 2.01}, "temperature", "decimal_above_max_value"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"top_p": 1.1}, "top_p", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 129}, "n", "integer_above_max_value"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens", "invalid_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
    ({"stop": [""]}, "stop", "invalid_value"),
    ({"stop": [7]}, "stop[0]", "invalid_type"),
    ({"logit_bias": {"65": 101}}, "logit_bias.65", "decimal_above_max_value"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    ({"top_logprobs": 5}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"seed": 10**30}, "seed", "integer_above_max_value"),
    ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
    ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [tool("get weather")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [tool("f"), tool("f")]}, "tools", "invalid_value"),
    ({"tools": [tool("f", {"type": "strin"})]}, "tools[0].function.parameters", "invalid_function_parameters"),
    ({"tools": [tool("f")], "tool_choice": named("g")}, "tool_choice", "invalid_value"),
    ({"tools": [tool("f")], "tool_choice": {"type": "custom"}}, "tool_choice.type", "unsupported_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
    ({"tools": [tool("f")], "tool_choice": "required", "ignore_eos": True}, "ignore_eos", "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    ({"response_format": schema({"type": "strin"})}, "response_format", "invalid_json_schema"),
    ({"response_format": schema({"not": {}}, strict=True)}, "response_format", "invalid_json_schema"),
    ({"response_format": schema(nested(200))}, "response_format", "invalid_json_schema"),
    ({"response_format": schema({"$ref": "https://example.com/x"})}, "response_format", "invalid_json_schema"),
    ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "min_tokens", "invalid_value"),
    (
        {"messages": [*HELLO, {"role": "tool", "content": "x"}]},
        "messages[1].tool_call_id",
        "missing_required_parameter",
    ),
    (
        {"messages": [*HELLO, {"role": "tool", "content": "x", "tool_call_id": "call_9"}]},
        "messages[1].tool_call_id",
        "invalid_value",
    ),
    ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
    ({"verbosity": "low"}, "verbosity", "unsupported_parameter"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction", "unsupported_parameter"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"metadata": {"k": 3}}, "metadata.k", "invalid_type"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "object_above_max_properties"),
    ({"messages": [{"role": "user", "content": "word " * 5000}]}, "messages", "context_length_exceeded"),
    ({"max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
]


@pytest.mark.parametrize(("changes", "param", "code"), BAD_FIELDS, ids=[f"{p}-{c}" for _, p, c in BAD_FIELDS])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_bad_field_is_a_400_that_names_it(
    http: httpx.Client, changes: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    if "stream_options" in changes and stream:
        pytest.skip("allowed with stream")
    body = {"model": "chat", "messages": HELLO, "max_tokens": 2, "stream": stream} | changes
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    if code != "context_length_exceeded":
        assert error["param"] == param


def test_an_unknown_model_is_a_404(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(sdk, model="gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_goes_away_frees_its_slot(server: Running, stream: bool) -> None:
    engine = server.services.live.base.engine
    body = {"model": "chat", "messages": HELLO, "max_tokens": 4000, "ignore_eos": True, "stream": stream}
    before = engine.stats.generated_tokens_total
    with (
        server.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body) if stream else _leaving(http, body) as reply,
    ):
        if stream:
            pieces = reply.iter_raw()
            while engine.stats.generated_tokens_total == before:  # the first piece only says whose turn it is
                next(pieces)
    deadline = time.monotonic() + 60
    while engine.stats.running or engine.stats.waiting:
        assert time.monotonic() < deadline, "the abandoned request still runs"
        time.sleep(0.01)
    assert engine.stats.generated_tokens_total - before < 4000, "the answer ended by itself"


class _leaving:  # noqa: N801 (a context manager used like a function)
    """Ask without streaming and hang up long before the answer is ready."""

    def __init__(self, http: httpx.Client, body: dict[str, Any]) -> None:
        self.http, self.body = http, body

    def __enter__(self) -> None:
        with pytest.raises(httpx.ReadTimeout):
            self.http.post("/v1/chat/completions", json=self.body, timeout=0.3)

    def __exit__(self, *error: object) -> None:
        return None


def test_a_full_queue_is_a_429_that_says_when(make_home: Callable[..., Settings]) -> None:
    long = {"model": "chat", "messages": HELLO, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with serving(make_home(max_batch=1, max_waiting=1)) as running, ExitStack() as opened:
        engine = running.services.live.base.engine
        http = opened.enter_context(running.http())
        for busy in (1, 2):
            stream = opened.enter_context(http.stream("POST", "/v1/chat/completions", json=long))
            assert stream.status_code == 200
            deadline = time.monotonic() + 60
            while engine.stats.running + engine.stats.waiting < busy or not engine.stats.running:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        refused = http.post("/v1/chat/completions", json=long | {"stream": False})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) >= 1
