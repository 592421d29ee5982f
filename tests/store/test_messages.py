from __future__ import annotations

import numpy as np
import pytest

from tests.store.conftest import SHA, Queries, Scene
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.schema import Actor


def test_an_edit_is_a_sibling_and_nothing_is_overwritten(store: Store, scene: Scene) -> None:
    conversation = scene.conversation()
    first = scene.ask(conversation, "One?")
    answer = scene.answer(first, "Yes.")
    second = scene.ask(conversation, "Two?")
    again = scene.answer(first, "No.")

    tree = {message.id: message for message in store.messages.tree(conversation.id, scene.owner.id)}
    assert [tree[m.id].content for m in (first, answer, second, again)] == ["One?", "Yes.", "Two?", "No."]
    assert [(tree[m.id].sibling_index, tree[m.id].sibling_count) for m in (first, second)] == [(0, 2), (1, 2)]
    assert [(tree[m.id].sibling_index, tree[m.id].sibling_count) for m in (answer, again)] == [(0, 2), (1, 2)]
    assert scene.again(answer).sibling_count == 2
    assert tree[first.id].author == "owner"
    assert tree[answer.id].author is None
    assert [message.id for message in store.messages.path(again.id)] == [first.id, again.id]
    assert store.conversations.get(conversation.id, scene.owner.id).head_message_id == again.id


def test_a_message_can_stay_out_of_the_way_of_the_head(store: Store, scene: Scene) -> None:
    answer = scene.turn()
    aside = store.messages.add(
        answer.conversation_id,
        answer.parent_id,
        "assistant",
        "Better.",
        scene.owner.id,
        edited_from=answer.id,
        head=False,
    )
    assert aside.original_id == answer.id
    assert store.conversations.get(answer.conversation_id, scene.owner.id).head_message_id == answer.id


def test_a_parent_of_another_conversation_is_not_found(store: Store, scene: Scene) -> None:
    elsewhere, conversation = scene.turn(), scene.conversation()
    for parent, original in ((elsewhere.id, None), (None, elsewhere.id), ("msg-none", None)):
        with pytest.raises(NotFound) as refused:
            store.messages.add(conversation.id, parent, "user", "x", scene.owner.id, edited_from=original)
        assert refused.value.param == ("edited_from" if original else "parent_id")
    with pytest.raises(NotFound):
        store.conversations.update(conversation.id, scene.owner.id, head_message_id=elsewhere.id)


@pytest.mark.parametrize(
    ("role", "content", "state"),
    [("robot", "x", "complete"), ("user", None, "complete"), ("assistant", "x", "streaming"), ("user", "x", "stopped")],
)
def test_messages_that_make_no_sense_are_refused(
    store: Store, scene: Scene, role: str, content: str | None, state: str
) -> None:
    with pytest.raises(InvalidInput):
        store.messages.add(scene.conversation().id, None, role, content, scene.owner.id, state)


@pytest.mark.parametrize("text", ["", "nul \x00 inside", "lone \ud800 surrogate", "héllo 🌍\r\n\t", "x" * 300_000])
def test_any_text_comes_back(store: Store, scene: Scene, text: str) -> None:
    message = scene.ask(scene.conversation(), text)
    assert scene.again(message).content == text.replace("\ud800", "?")


def _queries_to_read(store: Store, conversation_id: str) -> list[int]:
    ids = [message.id for message in store.messages.tree(conversation_id)]
    owner = store.conversations.get(conversation_id, None).actor_id
    counts = []
    for read in (
        lambda: store.messages.tree(conversation_id, owner),
        lambda: store.messages.path(ids[-1], owner),
        lambda: store.messages.paths(ids),
    ):
        with Queries(store) as queries:
            read()
        counts.append(len(queries.statements))
    return counts


def test_tree_and_path_cost_the_same_queries_however_many_messages(store: Store, scene: Scene) -> None:
    conversation = scene.conversation()
    counts = []
    parent: str | None = None
    for _ in range(2):
        for _ in range(6):
            answer = scene.answer(scene.ask(conversation, "Again?", parent))
            store.presentations.create(scene.owner.id, [str(answer.generation_id)])
            scene.thumb(answer)
            parent = answer.id
        counts.append(_queries_to_read(store, conversation.id))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 6


def test_a_stream_can_be_read_while_it_runs_and_is_compiled_at_its_end(store: Store, scene: Scene) -> None:
    message, generation = scene.begin(scene.ask(scene.conversation()))
    assert scene.again(store.messages.get(message, scene.owner.id)).content == ""
    assert store.generations.append(generation, "Hel", [7, 8], [-0.125, -0.1])
    assert store.generations.append(generation, "lo", [9], [-2.0])
    assert store.messages.get(message, scene.owner.id).content == store.generations.text(generation) == "Hello"
    assert store.generations.get(generation).token_ids.tolist() == [7, 8, 9]
    assert store.messages.get(message, scene.owner.id).state == "streaming"

    done = store.generations.finish(generation, "length", ttft_s=0.5, tokens_per_s=20.0)

    assert (done.content, done.state, done.finish_reason) == ("Hello", "complete", "length")
    assert done.version is not None
    assert done.version.number == 0
    kept = store.generations.get(generation, scene.owner.id)
    assert kept.prompt_ids.tolist() == [1, 2, 3]
    assert kept.token_ids.tolist() == [7, 8, 9]
    assert np.array_equal(kept.logprobs, np.array([-0.125, -0.1, -2.0], dtype=np.float32))
    assert kept.seq_logprob == pytest.approx(-2.225, abs=1e-6)
    assert (kept.sampling, kept.weights_sha256, kept.propensity) == ({"temperature": 0.7}, SHA, 1.0)
    assert (kept.ttft_s, kept.tokens_per_s) == (0.5, 20.0)
    assert store.generations.get_many([generation, "gen-none"]).keys() == {generation}


@pytest.mark.parametrize(("reason", "state"), [("stop", "complete"), ("abort", "stopped"), ("error", "error")])
def test_the_first_end_of_a_stream_counts(store: Store, scene: Scene, reason: str, state: str) -> None:
    _, generation = scene.begin(scene.ask(scene.conversation()))
    store.generations.append(generation, "Hel", [7], [-0.5])
    assert store.generations.finish(generation, reason).state == state
    assert not store.generations.append(generation, "lo", [8], [-0.5])
    again = store.generations.finish(generation, "length", ttft_s=9.0)
    assert (again.content, again.state, again.finish_reason) == ("Hel", state, reason)
    assert store.generations.get(generation).ttft_s is None


def test_a_restarted_server_marks_what_was_interrupted_and_keeps_its_words(store: Store, scene: Scene) -> None:
    question = scene.ask(scene.conversation())
    done = scene.answer(question)
    begun, generation = scene.begin(question)
    store.generations.append(generation, "Half an ans", [7, 8], [-0.5, -0.5])
    bare = store.messages.add(question.conversation_id, question.id, "assistant", None, None, "streaming")

    assert sorted(store.generations.interrupted()) == sorted([begun, bare.id])

    tree = {m.id: m for m in store.messages.tree(question.conversation_id, scene.owner.id)}
    assert (tree[begun].content, tree[begun].state) == ("Half an ans", "interrupted")
    assert (tree[bare.id].content, tree[bare.id].state) == ("", "interrupted")
    assert tree[done.id].state == "complete"
    assert store.generations.get(generation).token_ids.tolist() == [7, 8]
    assert store.generations.interrupted() == []


def test_bad_generations_are_refused(store: Store, scene: Scene) -> None:
    question = scene.ask(scene.conversation())
    message, generation = scene.begin(question)
    fields = {"prompt_ids": [1], "sampling": {}, "weights_sha256": SHA, "tokenizer_sha256": SHA, "template_sha256": SHA}
    with pytest.raises(InvalidInput):
        store.generations.append(generation, "x", [1, 2], [-0.5])
    with pytest.raises(InvalidInput):
        store.generations.start(message, scene.base.id, **fields)
    with pytest.raises(InvalidInput):
        store.generations.start(question.id, scene.base.id, **fields)
    with pytest.raises(InvalidInput):
        store.generations.finish(generation, "bored")
    waiting = store.messages.add(question.conversation_id, question.id, "assistant", None, None, "streaming")
    with pytest.raises(NotFound):
        store.generations.start(waiting.id, "ver-none", **fields)
    with pytest.raises(InvalidInput):
        store.generations.start(waiting.id, scene.base.id, propensity=0.0, **fields)
    for call in (store.generations.get, store.generations.text, lambda id: store.generations.append(id, "", [], [])):
        with pytest.raises(NotFound):
            call("gen-none")


def test_versions_stay_hidden_while_a_blind_comparison_waits(store: Store, scene: Scene) -> None:
    presentation, first, second = scene.compared(blind=True)
    assert (first.version, second.version, first.blind) == (None, None, True)
    assert first.presentation_id == second.presentation_id == presentation
    store.feedback.add("compare", scene.owner.id, presentation_id=presentation, payload={"winner": "b"})
    revealed = scene.again(first)
    assert revealed.version is not None
    assert (revealed.version.id, revealed.blind) == (scene.base.id, False)


def test_an_open_comparison_hides_nothing(store: Store, scene: Scene) -> None:
    _, first, _ = scene.compared(blind=False)
    assert first.version is not None


def test_presentations_keep_the_order_and_refuse_nonsense(store: Store, scene: Scene, guest: Actor) -> None:
    id, first, second = scene.compared()
    shown = store.presentations.get(id, scene.owner.id)
    assert shown.message_ids == (first.id, second.id)
    assert shown.generation_ids == (first.generation_id, second.generation_id)
    assert store.presentations.for_message(second.id) == shown
    assert store.presentations.get_many([id]) == {id: shown}
    assert store.presentations.for_message("msg-none") is None
    with pytest.raises(NotFound):
        store.presentations.get(id, guest.id)
    one, two = (str(message.generation_id) for message in (first, second))
    for ids, layout in (([one], "side_by_side"), ([one, one], "side_by_side"), ([], "single"), ([one, two], "heap")):
        with pytest.raises(InvalidInput):
            store.presentations.create(scene.owner.id, ids, layout)
    with pytest.raises(NotFound) as refused:
        store.presentations.create(scene.owner.id, [one, "gen-none"], "side_by_side")
    assert refused.value.param == "generation_ids[1]"
