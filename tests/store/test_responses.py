from __future__ import annotations

import json
from typing import Any

import pytest

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import Store
from tutee.store.schema import Actor, now


@pytest.fixture
def ada(store: Store) -> Actor:
    return store.actors.get_or_create("ada")


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"id": new_id("msg_"), "type": "message", "role": role, "content": text}


def body(id: str, status: str = "completed", output: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"id": id, "model": "m", "status": status, "created_at": 5, "output": output or []}


def respond(store: Store, actor: Actor, said: str, answer: str, **links: Any) -> str:
    id = new_id("resp_")
    store.responses.add(actor.id, body(id, "in_progress"), [message(said)], **links)
    assert store.responses.finish(id, body(id, output=[message(answer, "assistant")]))
    return id


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"] for item in items]


def test_a_thread_is_everything_that_led_to_an_answer(store: Store, ada: Actor) -> None:
    first = respond(store, ada, "a", "b")
    second = respond(store, ada, "c", "d", previous_id=first)
    other = respond(store, ada, "x", "y", previous_id=first)
    assert texts(store.responses.thread(second, ada.id)) == ["a", "b", "c", "d"]
    assert texts(store.responses.thread(other, ada.id)) == ["a", "b", "x", "y"]


def test_a_thread_with_a_gap_cannot_be_continued(store: Store, ada: Actor) -> None:
    first = respond(store, ada, "a", "b")
    second = respond(store, ada, "c", "d", previous_id=first)
    grace = store.actors.get_or_create("grace")
    for id, who in ((second, grace), ("resp_nobody", ada)):
        with pytest.raises(InvalidInput) as caught:
            store.responses.thread(id, who.id)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")
    store.responses.delete(first, ada.id)
    with pytest.raises(InvalidInput, match=first):
        store.responses.thread(second, ada.id)
    assert store.responses.get(second, ada.id).status == "completed"


def test_an_answer_in_progress_cannot_be_continued(store: Store, ada: Actor) -> None:
    id = new_id("resp_")
    store.responses.add(ada.id, body(id, "in_progress"), [message("a")])
    with pytest.raises(InvalidInput, match="not ended"):
        store.responses.thread(id, ada.id)
    assert store.responses.interrupted({"code": "server_error", "message": "cut off"}) == 1
    kept = store.responses.get(id, ada.id)
    assert (kept.status, kept.body["status"], kept.body["error"]["code"]) == ("failed", "failed", "server_error")
    assert store.responses.interrupted({}) == 0


def test_input_items_come_in_pages(store: Store, ada: Actor) -> None:
    id = new_id("resp_")
    items = [message(str(i)) for i in range(5)]
    store.responses.add(ada.id, body(id, "in_progress"), items)
    store.responses.finish(id, body(id, output=[message("answer", "assistant")]))
    assert [row.item["content"] for row in store.responses.input_items(id, ada.id)] == list("43210")
    page = store.responses.input_items(id, ada.id, limit=2, order="asc")
    assert ([row.id for row in page], page.has_more) == ([item["id"] for item in items[:2]], True)
    page = store.responses.input_items(id, ada.id, limit=9, after=items[1]["id"], order="asc")
    assert ([row.item["content"] for row in page], page.has_more) == (["2", "3", "4"], False)


def test_what_is_said_in_a_conversation_stays_when_the_response_goes(store: Store, ada: Actor) -> None:
    conversation = store.openai_conversations.add(ada.id, {"topic": "x"}, [message("before")])
    id = respond(store, ada, "a", "b", conversation_id=conversation.id)
    store.responses.delete(id, ada.id)
    assert texts(store.openai_conversations.said(conversation.id, ada.id)) == ["before", "a", "b"]
    gone = new_id("resp_")
    store.responses.add(ada.id, body(gone, "in_progress"), [message("lost")], conversation_id=conversation.id)
    store.responses.finish(gone, body(gone, "failed"))
    assert len(store.openai_conversations.said(conversation.id, ada.id)) == 3
    with pytest.raises(NotFound):
        store.responses.get(id, ada.id)
    assert not store.responses.finish(id, body(id))


def test_items_of_a_conversation(store: Store, ada: Actor) -> None:
    conversations = store.openai_conversations
    id = conversations.add(ada.id, {}).id
    items = [message(str(i)) for i in range(4)]
    conversations.add_items(id, ada.id, items[:2])
    conversations.add_items(id, ada.id, items[2:])
    assert [row.item["content"] for row in conversations.items(id, ada.id, limit=3)] == ["3", "2", "1"]
    assert conversations.item(id, items[1]["id"], ada.id)["content"] == "1"
    assert conversations.find_item(items[1]["id"], ada.id) == items[1]
    conversations.delete_item(id, items[3]["id"], ada.id)
    conversations.add_items(id, ada.id, [message("new")])
    assert texts(conversations.said(id, ada.id)) == ["0", "1", "2", "new"]
    assert conversations.update(id, ada.id, {"a": "b"}).metadata_ == {"a": "b"}
    with pytest.raises(NotFound):
        conversations.item(id, items[3]["id"], ada.id)


def test_another_person_sees_nothing(store: Store, ada: Actor) -> None:
    grace = store.actors.get_or_create("grace")
    conversation = store.openai_conversations.add(ada.id, {}, [message("secret")])
    id = respond(store, ada, "a", "b", conversation_id=conversation.id)
    item = store.openai_conversations.said(conversation.id, ada.id)[0]["id"]
    attempts = (
        lambda: store.responses.get(id, grace.id),
        lambda: store.responses.delete(id, grace.id),
        lambda: store.responses.input_items(id, grace.id),
        lambda: store.openai_conversations.get(conversation.id, grace.id),
        lambda: store.openai_conversations.add_items(conversation.id, grace.id, [message("x")]),
        lambda: store.openai_conversations.item(conversation.id, item, grace.id),
        lambda: store.openai_conversations.delete(conversation.id, grace.id),
    )
    for attempt in attempts:
        with pytest.raises(NotFound):
            attempt()
    assert store.openai_conversations.find_item(item, grace.id) is None
    assert store.responses.find_item(store.responses.get(id, ada.id).body["output"][0]["id"], grace.id) is None


def test_erasing_a_person_erases_these_too(store: Store, ada: Actor) -> None:
    conversation = store.openai_conversations.add(ada.id, {}, [message("secret")])
    id = respond(store, ada, "a", "b")
    store.persons.erase(ada.id)
    with pytest.raises(NotFound):
        store.responses.get(id, None)
    with pytest.raises(NotFound):
        store.openai_conversations.get(conversation.id, None)


def test_events_are_read_from_any_number_on(store: Store, ada: Actor) -> None:
    id = new_id("resp_")
    store.responses.add(ada.id, body(id, "in_progress"), [message("a")])
    events = [b'{"n": %d}' % i for i in range(7)]
    store.responses.add_events(id, 0, events[:2])
    store.responses.add_events(id, 2, events[2:6])
    for after in range(-1, 7):
        assert store.responses.events(id, after) == events[after + 1 : 6]
    store.responses.finish(id, body(id), (6, events[6:]))
    assert store.responses.events(id) == events
    assert store.responses.events(id, 99) == events[6:]  # the end is told to everybody
    store.responses.add_events("resp_gone", 0, events)
    store.responses.delete(id, ada.id)
    assert store.responses.events(id) == []


def test_a_reader_of_an_interrupted_response_hears_that_it_failed(store: Store, ada: Actor) -> None:
    told, silent = (new_id("resp_") for _ in range(2))
    for id in (told, silent):
        store.responses.add(ada.id, body(id, "in_progress"), [message("a")])
    store.responses.add_events(told, 0, [b'{"type": "response.created"}'])
    assert store.responses.interrupted({"code": "server_error", "message": "stopped"}) == 2
    _, end = (json.loads(event) for event in store.responses.events(told))
    assert (end["type"], end["sequence_number"]) == ("response.failed", 1)
    assert (end["response"]["status"], end["response"]["error"]["message"]) == ("failed", "stopped")
    assert store.responses.events(silent) == []


def test_what_was_answered_before_a_moment_stays_in_one_order(store: Store, ada: Actor) -> None:
    late = new_id("resp_")
    store.responses.add(ada.id, body(late, "in_progress"), [message("late")])
    first, second = (respond(store, ada, "a", "b") for _ in range(2))
    failed = new_id("resp_")
    store.responses.add(ada.id, body(failed, "in_progress"), [])
    store.responses.finish(failed, body(failed, "failed"))
    respond(store, store.actors.get_or_create("grace"), "a", "b")
    moment = now()
    store.responses.finish(late, body(late))
    assert [row.id for row in store.responses.answered(ada.id, moment)] == [first, second]
    page = store.responses.answered(ada.id, now(), model="m", limit=2)
    assert page.has_more
    assert [row.id for row in store.responses.answered(ada.id, now(), after=page.last_id)] == [late]
    assert not store.responses.answered(ada.id, now(), model="other")
