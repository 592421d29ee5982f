"""Chat completions kept on request, through the official client in strict mode."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.serve.conftest import Running
from tutee.data.from_feedback import collect
from tutee.data.rows import PairRow
from tutee.store.schema import Feedback

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def keep(sdk: openai.OpenAI, stream: bool = False, **metadata: str) -> str:
    """A stored answer of four tokens."""
    body = {"ignore_eos": True}
    reply = sdk.chat.completions.create(
        model="chat", messages=MESSAGES, max_tokens=4, store=True, metadata=metadata, stream=stream, extra_body=body
    )
    return {chunk.id for chunk in reply}.pop() if stream else reply.id


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_way_of_a_stored_completion(server: Running, sdk: openai.OpenAI, stream: bool) -> None:
    kept = keep(sdk, stream, way=str(stream))
    completions = sdk.chat.completions
    found = completions.retrieve(kept)
    assert found.metadata == {"way": str(stream)}
    assert found.choices[0].message.content is not None
    # The client's strict mode knows assistant messages only, here where OpenAI returns the others.
    messages = server.sdk().chat.completions.messages.list(kept)
    assert [(m.role, m.content) for m in messages] == [("system", "Be brief."), ("user", "Hi")]
    updated = completions.update(kept, metadata={"way": str(stream), "rating": "up"})
    assert updated.metadata == {"way": str(stream), "rating": "up"}
    assert [row.id for row in completions.list(metadata={"way": str(stream), "rating": "up"})] == [kept]
    assert completions.delete(kept).deleted
    with pytest.raises(openai.NotFoundError):
        completions.retrieve(kept)


def test_lists_page_through_all_once(sdk: openai.OpenAI) -> None:
    kept = [keep(sdk, batch="paged") for _ in range(5)]
    found = [row.id for row in sdk.chat.completions.list(limit=2, metadata={"batch": "paged"})]
    assert found == kept
    assert [row.id for row in sdk.chat.completions.list(metadata={"batch": "paged"}, order="desc")] == kept[::-1]
    assert list(sdk.chat.completions.list(metadata={"batch": "paged"}, model="other")) == []


def test_nothing_is_kept_without_being_asked(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=2)
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.retrieve(reply.id)


def test_another_person_cannot_see_it(server: Running, sdk: openai.OpenAI) -> None:
    kept = keep(sdk)
    stranger = server.sdk(default_headers={"X-Tutee-Actor": "stranger"})
    for call in (stranger.chat.completions.retrieve, stranger.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            call(kept)
    assert kept not in [row.id for row in stranger.chat.completions.list()]


def kept_pair(sdk: openai.OpenAI, about: str) -> list[str]:
    """Two different stored answers to the same message."""
    messages: list[Any] = [{"role": "user", "content": f"Tell me about {about}"}]
    body = {"ignore_eos": True}
    replies = [
        sdk.chat.completions.create(
            model="chat", messages=messages, max_tokens=6, store=True, seed=seed, extra_body=body
        )
        for seed in (1, 2)
    ]
    return [reply.id for reply in replies]


def live_feedback(server: Running, kind: str) -> list[Feedback]:
    actor = server.services.store.actors.get_or_create("owner")
    return list(server.services.store.feedback.live(actor.id, kind))


def test_metadata_become_feedback_on_what_was_sampled(server: Running, sdk: openai.OpenAI) -> None:
    store = server.services.store
    kept = keep(sdk)
    sdk.chat.completions.update(kept, metadata={"rating": "up", "correction": "A better answer"})
    sdk.chat.completions.update(kept, metadata={"rating": "down", "correction": "A better answer"})
    (message_id,) = store.completions.get(kept, None).message_ids or ()
    mine = [
        event for kind in ("thumb", "edit") for event in live_feedback(server, kind) if event.target_id == message_id
    ]
    assert [(event.kind, event.payload) for event in mine] == [
        ("thumb", {"value": -1}),
        ("edit", {"content": "A better answer"}),
    ]
    message = store.messages.get(message_id, None)
    generation = store.generations.get(str(message.generation_id))
    assert message.content == sdk.chat.completions.retrieve(kept).choices[0].message.content
    assert len(generation.token_ids) == len(generation.logprobs) == generation.sampling["max_tokens"]
    assert len(generation.prompt_ids) > 0
    assert store.messages.said(message_id)[:-1] == [("user", "Hi")]
    assert store.conversations.get(message.conversation_id, None).system == "Be brief."


def test_preferred_over_compares_two_answers_to_the_same_message(server: Running, sdk: openai.OpenAI) -> None:
    store = server.services.store
    better, worse = kept_pair(sdk, "votes")
    sdk.chat.completions.update(better, metadata={"preferred_over": worse})
    event = live_feedback(server, "compare")[-1]
    shown = store.presentations.get(str(event.presentation_id), None)
    assert event.payload == {"winner": "a"}
    assert shown.message_ids == tuple(
        (store.completions.get(id, None).message_ids or [""])[0] for id in (better, worse)
    )
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.update(better, metadata={"preferred_over": keep(sdk)})
    assert caught.value.param == "metadata.preferred_over"


def test_the_page_learns_from_it_with_consent(server: Running, sdk: openai.OpenAI) -> None:
    better, worse = kept_pair(sdk, "consent")
    sdk.chat.completions.update(better, metadata={"preferred_over": worse, "correction": "Consent is needed."})

    def taught() -> set[str]:
        return {row.chosen.text for row in collect(server.services.store).rows if isinstance(row, PairRow)}

    with server.http() as http:
        http.put("/v1/tutee/consent", json={"train": False})
        without = taught()
        http.put("/v1/tutee/consent", json={"train": True})  # as the owner of a machine begins
        assert "Consent is needed." in taught() - without


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({"rating": "purple"}, "metadata.rating"),
        ({"correction": " "}, "metadata.correction"),
        ({"preferred_over": "chatcmpl-0"}, "metadata.preferred_over"),
    ],
)
def test_an_opinion_that_cannot_be_read_changes_nothing(
    sdk: openai.OpenAI, metadata: dict[str, str], param: str
) -> None:
    kept = keep(sdk)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.update(kept, metadata=metadata)
    assert caught.value.param == param
    assert not sdk.chat.completions.retrieve(kept).metadata


def test_without_samples_no_feedback(server: Running, sdk: openai.OpenAI) -> None:
    store = server.services.store
    actor = store.actors.get_or_create("owner")
    old = store.completions.add("chatcmpl-old", actor.id, "chat", MESSAGES, {"id": "chatcmpl-old", "choices": []})
    with pytest.raises(openai.BadRequestError) as caught:
        server.sdk().chat.completions.update(old.id, metadata={"rating": "up"})
    assert caught.value.code == "not_recorded"
