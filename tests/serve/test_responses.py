"""Responses through the official client: text, state, streams, functions, what is kept and who may see it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import Running, serving
from tutee.settings import Settings

FIELDS: dict[str, Any] = {"model": "chat", "max_output_tokens": 16, "temperature": 0}
TOOL: Any = {
    "type": "function",
    "name": "look",
    "description": "Look something up",
    "parameters": {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    },
    "strict": True,
}


def respond(sdk: openai.OpenAI, given: Any = "Hello", **fields: Any) -> Any:
    return sdk.responses.create(**(FIELDS | {"input": given} | fields))


def refused(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    reply = http.post("/v1/responses", json=FIELDS | {"input": "x"} | fields)
    assert reply.status_code == 400, reply.text
    return dict(reply.json()["error"])


def events_of(http: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    reply = http.post("/v1/responses", json=FIELDS | {"input": "Hello", "stream": True} | fields)
    events = told(reply)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def told(reply: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream that has ended."""
    assert reply.headers["content-type"].startswith("text/event-stream"), reply.text
    events = []
    for block in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def again(http: httpx.Client, id: str, **query: Any) -> list[dict[str, Any]]:
    """What a reader who comes later is told of a response."""
    return told(http.get(f"/v1/responses/{id}", params={"stream": "true", **query}))


def test_a_text_is_answered(sdk: openai.OpenAI) -> None:
    reply = respond(sdk, instructions="Be brief.", metadata={"a": "b"})
    assert reply.id.startswith("resp_")
    assert (reply.object, reply.model, reply.error) == ("response", "chat", None)
    assert (reply.instructions, reply.metadata, reply.tool_choice, reply.tools) == ("Be brief.", {"a": "b"}, "auto", [])
    message = reply.output[0]
    assert (message.type, message.role, message.content[0].type) == ("message", "assistant", "output_text")
    assert reply.output_text == message.content[0].text
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert sdk.responses.retrieve(reply.id) == reply


def test_it_is_the_same_answer_as_a_chat_completions(server: Running, sdk: openai.OpenAI) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat = server.sdk().chat.completions.create(model="chat", messages=messages, max_tokens=16, temperature=0)
    assert respond(sdk, instructions="Be brief.").output_text == chat.choices[0].message.content


def test_the_forms_of_input_are_one(server: Running, sdk: openai.OpenAI) -> None:
    parts = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    replies = [respond(sdk, given) for given in ("Hello", [{"role": "user", "content": "Hello"}], parts)]
    assert len({reply.output_text for reply in replies}) == 1
    assert len({reply.usage.input_tokens for reply in replies}) == 1


def test_what_was_said_before_is_remembered(sdk: openai.OpenAI) -> None:
    first = respond(sdk, "My name is Ada.", instructions="old instructions")
    second = respond(sdk, "What is it?", previous_response_id=first.id)
    whole = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is it?"},
    ]
    assert second.output_text == respond(sdk, whole).output_text
    assert second.previous_response_id == first.id
    sdk.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        respond(sdk, "And now?", previous_response_id=second.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_an_output_can_be_played_back(sdk: openai.OpenAI) -> None:
    first = respond(sdk, "One")
    played = [{"role": "user", "content": "One"}, *(item.model_dump() for item in first.output)]
    again = respond(sdk, [*played, {"role": "user", "content": "Two"}])
    assert again.output_text == respond(sdk, "Two", previous_response_id=first.id).output_text
    by_reference = [{"role": "user", "content": "One"}, {"type": "item_reference", "id": first.output[0].id}]
    assert respond(sdk, [*by_reference, {"role": "user", "content": "Two"}]).output_text == again.output_text


def test_kept_unless_refused(server: Running, sdk: openai.OpenAI) -> None:
    unkept = respond(sdk, store=False)
    for call in (sdk.responses.retrieve, sdk.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(unkept.id)
    kept = respond(sdk)
    stranger = server.sdk(default_headers={"X-Tutee-Actor": "stranger"})
    with pytest.raises(openai.NotFoundError):
        stranger.responses.retrieve(kept.id)
    with pytest.raises(openai.BadRequestError):
        respond(stranger, previous_response_id=kept.id)
    sdk.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(kept.id)


def test_input_items_come_in_pages(sdk: openai.OpenAI) -> None:
    given = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    reply = respond(sdk, given)
    found: list[Any] = list(sdk.responses.input_items.list(reply.id, limit=1))
    assert [item.content[0].text for item in found] == ["c", "b", "a"]
    assert [item.id for item in sdk.responses.input_items.list(reply.id, order="asc")] == [x.id for x in found[::-1]]


def test_a_stream_tells_in_order(http: httpx.Client) -> None:
    events = events_of(http)
    types = [event["type"].removeprefix("response.") for event in events]
    deltas = types.count("output_text.delta")
    assert deltas > 1
    assert types == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == text
    assert (final["status"], final["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (events[0]["response"]["output"], events[0]["response"]["error"]) == ([], None)
    assert {event["response"]["id"] for event in events if "response" in event} == {final["id"]}
    kept = http.get(f"/v1/responses/{final['id']}").json()
    assert kept == final


def test_the_clients_stream_helper(server: Running) -> None:
    with server.sdk().responses.stream(**(FIELDS | {"input": "Hello"})) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.incomplete"


def test_an_end_before_the_limit_is_complete(server: Running) -> None:
    with server.sdk().responses.stream(model="chat", input="Hello", extra_body={"logit_bias": {"257": 100}}) as stream:
        final = stream.get_final_response()
    assert (final.status, final.output_text, final.usage.output_tokens) == ("completed", "", 1)  # type: ignore[union-attr]


def test_log_probs_come_with_their_text(sdk: openai.OpenAI, http: httpx.Client) -> None:
    fields: dict[str, Any] = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    part = respond(sdk, **fields).output[0].content[0]
    assert len(part.logprobs) == 16
    assert b"".join(bytes(each.bytes) for each in part.logprobs).decode("utf-8", "replace") == part.text
    assert all(len(each.top_logprobs) == 2 for each in part.logprobs)
    told = [entry for event in events_of(http, **fields) for entry in event.get("logprobs", ()) if "delta" in event]
    assert [entry["logprob"] for entry in told] == [each.logprob for each in part.logprobs]


def test_a_function_is_called_and_answered(sdk: openai.OpenAI, http: httpx.Client) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    reply = respond(sdk, **fields, max_output_tokens=200)
    call = reply.output[0]
    assert (reply.status, call.type, call.name, call.status) == ("completed", "function_call", "look", "completed")
    assert isinstance(json.loads(call.arguments)["yes"], bool)
    assert (reply.tools[0].name, reply.tool_choice, reply.parallel_tool_calls) == ("look", "required", False)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "found"}
    after = respond(sdk, [result], previous_response_id=reply.id, tools=[TOOL])
    assert after.output
    with pytest.raises(openai.BadRequestError, match="No tool output found"):
        respond(sdk, "never mind", previous_response_id=reply.id)
    with pytest.raises(openai.BadRequestError, match="No tool call found"):
        respond(sdk, [result | {"call_id": "call_other"}], previous_response_id=reply.id)


def test_a_call_is_told_piece_by_piece(http: httpx.Client) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "look"}}
    events = events_of(http, **fields, max_output_tokens=200)
    types = [event["type"].removeprefix("response.") for event in events]
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert types[2] == "output_item.added"
    assert types[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    assert types[3:-3] == ["function_call_arguments.delta"] * len(deltas)
    item = events[-2]["item"]
    assert (item["name"], item["arguments"]) == ("look", "".join(deltas))
    assert events[2]["item"] | {"arguments": item["arguments"], "status": "completed"} == item


def test_the_form_of_the_text(sdk: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "number", "schema": schema, "strict": True}
    reply = respond(sdk, text={"format": form}, max_output_tokens=200, extra_body={"seed": 3}, temperature=1.0)
    assert isinstance(json.loads(reply.output_text)["n"], int) or reply.status == "incomplete"
    assert reply.text.format.name == "number"


def test_a_long_thread_is_cut_only_when_asked(server: Running, sdk: openai.OpenAI) -> None:
    turns = [{"role": "user", "content": f"{i} " * 300} for i in range(9)]
    with pytest.raises(openai.BadRequestError) as caught:
        respond(sdk, turns)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    reply = respond(sdk, turns, truncation="auto", instructions="Keep this.")
    assert 2000 < reply.usage.input_tokens <= 4096 - 16
    kept = respond(sdk, turns[-6:], truncation="auto", instructions="Keep this.")
    assert kept.output_text == reply.output_text


def test_background_work_can_be_watched_and_cancelled(sdk: openai.OpenAI) -> None:
    reply = respond(sdk, background=True, max_output_tokens=3000, extra_body={"ignore_eos": True})
    assert (reply.status, reply.output) == ("in_progress", [])
    cancelled = sdk.responses.cancel(reply.id)
    assert cancelled.status == "cancelled"
    assert sdk.responses.cancel(reply.id).status == "cancelled"
    short = respond(sdk, background=True)
    deadline = time.monotonic() + 120
    while sdk.responses.retrieve(short.id).status == "in_progress" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sdk.responses.retrieve(short.id).output_text == respond(sdk).output_text
    with pytest.raises(openai.BadRequestError):
        sdk.responses.cancel(respond(sdk).id)


LONG: dict[str, Any] = FIELDS | {"input": "Hello", "max_output_tokens": 3000, "background": True}


def begin(http: httpx.Client, count: int, **fields: Any) -> list[dict[str, Any]]:
    """The first `count` events of a long stream in the background, whose reader then goes away."""
    events: list[dict[str, Any]] = []
    with http.stream("POST", "/v1/responses", json=LONG | {"ignore_eos": True, "stream": True} | fields) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
            if len(events) == count:
                return events
    raise AssertionError("the stream ended")


def test_a_stream_in_the_background_is_told_again_from_anywhere(http: httpx.Client, sdk: openai.OpenAI) -> None:
    events = events_of(http, background=True)
    id = events[0]["response"]["id"]
    assert events[-1]["response"] == http.get(f"/v1/responses/{id}").json()
    assert again(http, id) == events
    for after in (0, 5, len(events) - 2):
        assert again(http, id, starting_after=after) == events[after + 1 :]
    assert again(http, id, starting_after=10_000) == events[-1:]
    replay = list(sdk.responses.retrieve(id, stream=True, starting_after=3))
    assert [event.sequence_number for event in replay] == list(range(4, len(events)))
    unwatched = respond(sdk, background=True)
    assert [event["sequence_number"] for event in again(http, unwatched.id)] == list(range(len(events)))


def test_a_stream_whose_reader_went_away_goes_on_for_others(server: Running, http: httpx.Client) -> None:
    first = begin(http, 6)
    id = first[0]["response"]["id"]
    assert http.get(f"/v1/responses/{id}").json()["status"] == "in_progress"
    with ThreadPoolExecutor(2) as pool, server.http() as other:
        late = [pool.submit(again, client, id, starting_after=2) for client in (http, other)]
        with server.http() as stopper, stopper.stream("GET", f"/v1/responses/{id}?stream=true") as reply:
            lines = (line for line in reply.iter_lines() if line.startswith("data: "))
            heard = [json.loads(next(lines)[6:]) for _ in range(40)]
            assert stopper.post(f"/v1/responses/{id}/cancel").json()["status"] == "cancelled"
            heard += [json.loads(line[6:]) for line in lines]
        one, two = (each.result() for each in late)
    assert [event["sequence_number"] for event in heard] == list(range(len(heard)))
    assert heard[:6] == first
    assert one == two == heard[3:]
    assert again(http, id) == heard
    assert [event["type"] for event in heard[-2:]] == ["response.output_item.done", "response.incomplete"]
    assert heard[-1]["response"]["status"] == "cancelled"
    text = "".join(event["delta"] for event in heard if "delta" in event)
    assert heard[-1]["response"]["output"][0]["content"][0]["text"] == text


def test_what_was_told_survives_the_server(make_home: Callable[..., Settings]) -> None:
    settings = make_home()
    with serving(settings) as running, running.http() as http:
        whole = events_of(http, background=True)
        cut = begin(http, 6)
    ids = [events[0]["response"]["id"] for events in (whole, cut)]
    with serving(settings) as running, running.http() as http:
        assert again(http, ids[0], starting_after=1) == whole[2:]
        heard = again(http, ids[1])
        assert [event["sequence_number"] for event in heard] == list(range(len(heard)))
        assert heard[:2] == cut[:2]
        assert heard[-1]["type"] in ("response.failed", "response.incomplete")
        assert heard[-1]["response"] == http.get(f"/v1/responses/{ids[1]}").json()
        http.delete(f"/v1/responses/{ids[0]}")
        assert http.get(f"/v1/responses/{ids[0]}?stream=true").status_code == 404


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=true", "stream"),
        ("starting_after=1", "starting_after"),
        ("stream=1&starting_after=-1", "starting_after"),
    ],
)
def test_only_the_background_can_be_followed(http: httpx.Client, sdk: openai.OpenAI, query: str, param: str) -> None:
    reply = http.get(f"/v1/responses/{respond(sdk).id}?{query}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_a_client_that_goes_away_frees_the_engine(server: Running) -> None:
    fields = FIELDS | {"input": "Hello", "max_output_tokens": 3000, "ignore_eos": True, "stream": True}
    with server.http() as http, http.stream("POST", "/v1/responses", json=fields) as reply:
        lines = reply.iter_lines()
        id = next(json.loads(line[6:])["response"]["id"] for line in lines if line.startswith("data: "))
        next(line for line in lines if "output_text.delta" in line)
    deadline = time.monotonic() + 60
    while server.services.live.base.engine.stats.running or server.services.responses.get(id) is not None:
        assert time.monotonic() < deadline, "the abandoned response still runs"
        time.sleep(0.02)
    body = server.sdk().responses.retrieve(id)
    assert body.status == "cancelled"
    assert body.output_text


def test_input_tokens_are_counted(sdk: openai.OpenAI) -> None:
    first = respond(sdk, "Hello")
    fields: dict[str, Any] = {"model": "chat", "input": "Again", "instructions": "x", "previous_response_id": first.id}
    counted = sdk.responses.input_tokens.count(**fields)
    assert counted.input_tokens == respond(sdk, **fields).usage.input_tokens


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 3}, "input", "invalid_type"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["x"]}, "input[0]", "invalid_type"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", "invalid_value"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"type": "item_reference", "id": "msg_none"}]}, "input[0].id", "item_not_found"),
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"previous_response_id": "resp_none"}, "previous_response_id", "previous_response_not_found"),
        (
            {"previous_response_id": "resp_a", "conversation": "conv_a"},
            "previous_response_id",
            "mutually_exclusive_parameters",
        ),
        ({"conversation": {}}, "conversation.id", "missing_required_parameter"),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"truncation": "some"}, "truncation", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools[0].name", "missing_required_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_value"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(http, **fields)
    assert (error["param"], error["code"]) == (param, code)
    if "tools" in fields and code == "unsupported_value":
        assert "web_search" in error["message"]


def test_what_nobody_knows_is_listed(http: httpx.Client) -> None:
    reply = http.post("/v1/responses", json=FIELDS | {"input": "x", "foo": 1, "text": {"bar": 2}})
    assert reply.headers["x-ignored-params"] == "foo,text.bar"
