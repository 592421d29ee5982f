from __future__ import annotations

import pytest

from tests.store.conftest import Queries, Scene
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.schema import Actor


def test_create_get_and_update_one_field_at_a_time(store: Store, owner: Actor) -> None:
    made = store.conversations.create(owner.id, title="Tea", system="Be brief.")
    assert store.conversations.get(made.id, owner.id) == made
    assert (made.title, made.system, made.train, made.temporary) == ("Tea", "Be brief.", None, False)

    store.conversations.update(made.id, owner.id, title="Green tea")
    changed = store.conversations.update(made.id, owner.id, train=False)
    assert (changed.title, changed.train, changed.system) == ("Green tea", False, "Be brief.")
    assert store.conversations.update(made.id, owner.id, train=None).train is None


def test_temporary_conversations_are_never_stored(store: Store, owner: Actor) -> None:
    with pytest.raises(InvalidInput) as refused:
        store.conversations.create(owner.id, temporary=True)
    assert refused.value.code == "temporary_not_stored"
    assert len(store.conversations.list(owner.id)) == 0


def test_somebody_elses_conversation_is_not_found_however_it_is_asked_for(
    store: Store, scene: Scene, guest: Actor
) -> None:
    answer = scene.turn()
    id = answer.conversation_id
    for attempt in (
        lambda who: store.conversations.get(id, who),
        lambda who: store.conversations.update(id, who, title="mine"),
        lambda who: store.conversations.delete(id, who),
        lambda who: store.messages.tree(id, who),
        lambda who: store.messages.get(answer.id, who),
        lambda who: store.messages.path(answer.id, who),
        lambda who: store.messages.add(id, None, "user", "hello", who),
        lambda who: store.generations.get(str(answer.generation_id), who),
        lambda who: store.presentations.create(who, [str(answer.generation_id)]),
        lambda who: store.feedback.add("thumb", who, message_id=answer.id, payload={"value": 1}),
    ):
        for stranger in (guest.id, "actor-nobody"):
            with pytest.raises(NotFound):
                attempt(stranger)
    assert len(store.conversations.list(guest.id)) == 0
    assert store.conversations.get(id, scene.owner.id).title is None


def test_list_is_by_last_touch_and_pages_do_not_shift(store: Store, scene: Scene) -> None:
    made = [scene.conversation().id for _ in range(5)]
    scene.ask(store.conversations.get(made[1], scene.owner.id))
    expected = [made[1], made[4], made[3], made[2], made[0]]
    assert [c.id for c in store.conversations.list(scene.owner.id)] == expected

    first = store.conversations.list(scene.owner.id, limit=2)
    assert first.has_more
    newer = scene.conversation().id
    rest = store.conversations.list(scene.owner.id, limit=10, after=first.last_id)
    assert [c.id for c in (*first, *rest)] == expected
    assert not rest.has_more
    assert newer not in [c.id for c in rest]


def test_bad_pages_are_refused(store: Store, scene: Scene, guest: Actor) -> None:
    foreign = scene.conversation(guest).id
    for arguments in ({"limit": 0}, {"limit": 10_000}, {"limit": True}, {"after": "conv-none"}, {"after": foreign}):
        with pytest.raises(InvalidInput) as refused:
            store.conversations.list(scene.owner.id, **arguments)
        assert refused.value.param in arguments


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("paris", True),
        ("PARIS", True),
        ("à Paris", True),
        ("capital", True),
        ("100%", True),
        ("1_0", False),
        ("%", True),
        ("\\", False),
        ("Rome", False),
        ("nul\x00l", True),
        ("  ", True),
    ],
)
def test_search_looks_into_titles_and_messages(store: Store, scene: Scene, query: str, found: bool) -> None:
    conversation = store.conversations.create(scene.owner.id, title="On capitals, 100% sure")
    scene.ask(conversation, "Suis-je à Paris? nul\x00l")
    scene.ask(store.conversations.create(scene.owner.id, title="Other"), "Nothing")
    hits = [c.id for c in store.conversations.list(scene.owner.id, query=query)]
    assert (conversation.id in hits) is found


def test_delete_leaves_no_word_behind(store: Store, scene: Scene) -> None:
    secret = "the-canary-sings"
    conversation = store.conversations.create(scene.owner.id, title=secret, system=secret)
    question = scene.ask(conversation, secret)
    answer = scene.answer(question, secret)
    other = scene.answer(question, secret)
    shown = store.presentations.create(
        scene.owner.id, [str(answer.generation_id), str(other.generation_id)], "side_by_side"
    )
    store.feedback.add("edit", scene.owner.id, message_id=answer.id, payload={"content": secret}, comment=secret)
    store.feedback.add("compare", scene.owner.id, presentation_id=shown.id, payload={"winner": "a"}, comment=secret)
    streaming, generation = scene.begin(question)
    store.generations.append(generation, secret, [9], [-1.0])
    kept = scene.turn(text="something else")

    tombstone = store.conversations.delete(conversation.id, scene.owner.id)

    assert len(tombstone.feedback_ids) == 2
    from tests.store.conftest import everything

    left = everything(store)
    assert secret not in repr(left)
    assert secret.encode() not in b"".join(row[1] for row in left["blob"])
    assert [message.id for message in store.messages.tree(kept.conversation_id, scene.owner.id)][-1] == kept.id
    with pytest.raises(NotFound):
        store.messages.get(streaming, scene.owner.id)


def test_equal_texts_share_a_blob_and_outlive_one_of_their_owners(store: Store, scene: Scene) -> None:
    first, second = scene.turn(text="same"), scene.turn(text="same")
    store.conversations.delete(first.conversation_id, scene.owner.id)
    assert [message.content for message in store.messages.path(second.id)] == ["same", "Hello."]


def test_a_list_costs_the_same_queries_however_long(store: Store, scene: Scene) -> None:
    counts = []
    for size in (2, 20):
        for _ in range(size):
            store.conversations.create(scene.owner.id, title="Tea", system="Be brief.")
        with Queries(store) as queries:
            store.conversations.list(scene.owner.id, limit=100)
        counts.append(len(queries.statements))
    assert counts[0] == counts[1] <= 3
