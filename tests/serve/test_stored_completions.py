"""Chat completions kept on request, through the official client in strict mode."""

from __future__ import annotations

import openai
import pytest

from tests.serve.conftest import Running

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def keep(sdk: openai.OpenAI, stream: bool = False, **metadata: str) -> str:
    reply = sdk.chat.completions.create(
        model="chat", messages=MESSAGES, max_tokens=4, store=True, metadata=metadata, stream=stream
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
    updated = completions.update(kept, metadata={"way": str(stream), "rating": "5"})
    assert updated.metadata == {"way": str(stream), "rating": "5"}
    assert [row.id for row in completions.list(metadata={"way": str(stream), "rating": "5"})] == [kept]
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
