"""T63–T68: responses: text, events in order, state, limits, tools that are not there, items."""

from __future__ import annotations

from typing import Any

import openai
import pytest


def respond(client: openai.OpenAI, model: str, given: Any = "Say hello.", **options: Any) -> Any:
    return client.responses.create(**({"model": model, "input": given, "max_output_tokens": 16} | options))


@pytest.mark.conformance("T63")
def test_create(strict_client: openai.OpenAI, model: str) -> None:
    reply = respond(
        strict_client, model, "Answer with one word: what colour is grass?", max_output_tokens=64, temperature=0
    )
    assert reply.output_text
    assert reply.status == "completed"
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens


@pytest.mark.conformance("T64")
def test_stream_order(client: openai.OpenAI, model: str) -> None:
    given: Any = {"model": model, "input": "Answer with one word: what colour is grass?", "temperature": 0}
    with client.responses.stream(**given) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert deltas
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert final.output_text == respond(client, model, given["input"], temperature=0, max_output_tokens=64).output_text


@pytest.mark.conformance("T65")
def test_state(client: openai.OpenAI, model: str) -> None:
    first = respond(client, model, "My name is Zebulon. Remember it.", temperature=0)
    second = respond(client, model, "Repeat it.", previous_response_id=first.id, temperature=0)
    whole = [
        {"role": "user", "content": "My name is Zebulon. Remember it."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Repeat it."},
    ]
    assert second.output_text == respond(client, model, whole, temperature=0).output_text
    with pytest.raises(openai.APIStatusError) as caught:
        respond(client, model, previous_response_id="resp_nobody")
    assert caught.value.status_code in (400, 404)
    assert caught.value.code == "previous_response_not_found"
    unkept = respond(client, model, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


@pytest.mark.conformance("T66")
def test_max_output_tokens(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, model, max_output_tokens=15)
    assert caught.value.param == "max_output_tokens"
    reply = respond(client, model, "Tell me a long story about a ship.", max_output_tokens=16)
    assert reply.status == "incomplete"
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.usage.output_tokens == 16


@pytest.mark.conformance("T67")
@pytest.mark.parametrize("tool", ["web_search", "file_search", "code_interpreter", "mcp", "computer_use_preview"])
def test_a_tool_that_is_not_there(client: openai.OpenAI, model: str, tool: str) -> None:
    with pytest.raises(openai.BadRequestError, match=tool) as caught:
        respond(client, model, tools=[{"type": tool}])
    assert caught.value.param == "tools[0].type"


@pytest.mark.conformance("T68")
def test_items_and_deletion(strict_client: openai.OpenAI, model: str) -> None:
    given = [{"role": "user", "content": f"number {i}"} for i in range(5)]
    reply = respond(strict_client, model, given)
    items: list[Any] = list(strict_client.responses.input_items.list(reply.id, limit=2, order="asc"))
    assert [item.content[0].text for item in items] == [each["content"] for each in given]
    strict_client.responses.delete(reply.id)
    for gone in (strict_client.responses.retrieve, strict_client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            gone(reply.id)
