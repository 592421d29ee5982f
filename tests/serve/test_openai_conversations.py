"""Conversations of OpenAI's API, alone and under responses, through the official client in strict mode."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import Running

HELLO: Any = {"type": "message", "role": "user", "content": "Hello"}


def texts(sdk: openai.OpenAI, id: str, **page: Any) -> list[str]:
    items: Any = sdk.conversations.items.list(id, **page)
    return [item.content[0].text for item in items]


def test_the_way_of_a_conversation(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(metadata={"topic": "demo"}, items=[HELLO])
    assert conversation.id.startswith("conv_")
    assert sdk.conversations.retrieve(conversation.id) == conversation
    assert sdk.conversations.update(conversation.id, metadata={"topic": "other"}).metadata == {"topic": "other"}
    added = sdk.conversations.items.create(
        conversation.id, items=[{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]
    )
    assert [item.type for item in added.data] == ["message", "message"]
    assert texts(sdk, conversation.id, order="asc", limit=2) == ["Hello", "Hi", "Bye"]
    assert texts(sdk, conversation.id) == ["Bye", "Hi", "Hello"]
    item: Any = sdk.conversations.items.retrieve(str(added.data[0].id), conversation_id=conversation.id)
    assert (item.role, item.content[0].text) == ("assistant", "Hi")
    assert sdk.conversations.items.delete(item.id, conversation_id=conversation.id).id == conversation.id
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.items.retrieve(item.id, conversation_id=conversation.id)
    assert sdk.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.retrieve(conversation.id)


def test_what_is_played_back_is_another_item(sdk: openai.OpenAI) -> None:
    told: Any = [{"id": "msg_told", "type": "message", "role": "user", "content": text} for text in ("one", "two")]
    conversation = sdk.conversations.create(items=told[:1]).id
    [again] = sdk.conversations.items.create(conversation, items=told[1:]).data
    assert again.id != "msg_told"
    assert texts(sdk, conversation, limit=1, order="asc") == ["one", "two"]
    sdk.conversations.items.delete("msg_told", conversation_id=conversation)
    assert texts(sdk, conversation) == ["two"]


def test_an_empty_one_has_a_page(sdk: openai.OpenAI) -> None:
    assert texts(sdk, sdk.conversations.create().id) == []


@pytest.mark.parametrize("store", [True, False])
def test_responses_read_it_and_add_to_it(sdk: openai.OpenAI, store: bool) -> None:
    conversation = sdk.conversations.create(items=[{"role": "user", "content": "My name is Ada."}])
    fields: dict[str, Any] = {"model": "chat", "max_output_tokens": 16, "temperature": 0, "store": store}
    first = sdk.responses.create(**fields, conversation=conversation.id, input="Hello")
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    second = sdk.responses.create(**fields, conversation={"id": conversation.id}, input="And?")
    said = ["My name is Ada.", "Hello", first.output_text, "And?", second.output_text]
    assert texts(sdk, conversation.id, order="asc") == said
    roles = ("user", "user", "assistant", "user")
    whole: Any = [{"role": role, "content": text} for role, text in zip(roles, said[:4], strict=True)]
    assert sdk.responses.create(**fields, input=whole).output_text == second.output_text


def test_somebody_elses_cannot_be_read_or_added_to(server: Running, sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(items=[HELLO])
    stranger = server.sdk(default_headers={"X-Tutee-Actor": "stranger"})
    with pytest.raises(openai.NotFoundError):
        stranger.responses.create(model="chat", conversation=conversation.id, input="x")
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.items.create(conversation.id, items=[HELLO])
    item = sdk.conversations.items.list(conversation.id).data[0]
    with pytest.raises(openai.BadRequestError):
        stranger.responses.create(model="chat", input=[{"type": "item_reference", "id": str(item.id)}])
    assert texts(sdk, conversation.id) == ["Hello"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"items": [HELLO] * 21}, "items", "array_above_max_length"),
        ({"items": "Hello"}, "items", "invalid_type"),
        ({"items": [{"type": "message", "role": "user"}]}, "items[0].content", "missing_required_parameter"),
        ({"items": [{"type": "function_call", "name": "f"}]}, "items[0].call_id", "missing_required_parameter"),
        ({"metadata": {"a" * 65: "b"}}, "metadata", "string_above_max_length"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, body: dict[str, Any], param: str, code: str) -> None:
    reply = http.post("/v1/conversations", json=body)
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (param, code)
