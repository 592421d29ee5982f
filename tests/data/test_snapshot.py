"""A snapshot is scrubbed, named by its content, leads back to its feedback, and loses what is erased."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from tests.data.homes import Home
from tutee.data.from_feedback import collect
from tutee.data.rows import PairRow, SftRow, UnpairedRow, from_payload, to_payload
from tutee.data.snapshot import freeze, load, scrubbed
from tutee.errors import NotFound, Unavailable
from tutee.store.schema import Scrub, SnapshotRow

SECRETS = ("ann@x.org", "4111 1111 1111 1111", "hunter22")


def teach(home: Home) -> None:
    """Some of every kind, with secrets in a system prompt, a question and an answer."""
    question = home.ask("My card is 4111 1111 1111 1111. What now?", system="The admin is ann@x.org.")
    a, b = home.answer(question, "Call the bank."), home.answer(question, "Tell everybody.")
    home.compare(a, b, "a")
    plain = home.ask("What is the capital of France?")
    good, bad, leaky = (home.answer(plain, t) for t in ("Paris.", "London.", "Paris, password: hunter22"))
    home.thumb(good, 1)
    home.thumb(bad, -1)
    home.edit(leaky, "Paris, of course.")
    home.demo(plain, "Paris. It lies on the Seine.")
    unsure = home.ask("A joke?")
    home.compare(home.answer(unsure, "No."), home.answer(unsure, "Never."), "tie")
    for i in range(8):
        home.edit(home.answer(home.ask(f"Tell me all about {chr(97 + i) * 9}."), "No."), f"It is a letter: {i}")


def stored(home: Home, sha: str) -> list[tuple[object, ...]]:
    return [(r.row_sha, r.split, r.kind, r.feedback_id, r.payload) for r in home.store.snapshots.rows(sha)]


def test_freezing_again_gives_the_same_name_and_bytes(home: Home) -> None:
    teach(home)
    first = freeze(home.store, collect(home.store))
    rows = stored(home, first.sha)
    again = freeze(home.store, collect(home.store), parent=first.sha)
    assert again.sha == first.sha
    assert [json.dumps(to_payload(r)) for r in again.rows] == [json.dumps(to_payload(r)) for r in first.rows]
    assert [
        (r.row_sha, r.split, r.kind, r.feedback_id, r.payload) for r in home.store.snapshots.rows(first.sha)
    ] == rows
    assert len(home.store.snapshots.list()) == 1
    home.thumb(home.answer(home.ask("And Spain?"), "Madrid."), 1)
    assert freeze(home.store, collect(home.store), parent=first.sha).sha != first.sha


def test_loading_gives_what_was_frozen(home: Home) -> None:
    teach(home)
    frozen = freeze(home.store, collect(home.store))
    assert load(home.store, frozen.sha) == frozen
    assert {type(row) for row in frozen.rows} == {SftRow, PairRow, UnpairedRow}
    assert {row.split for row in frozen.rows} == {"train", "held_out"}
    assert set(frozen.of("train")) | set(frozen.of("held_out")) == set(frozen.rows)


def test_counts_are_flat_and_right(home: Home) -> None:
    teach(home)
    frozen = freeze(home.store, collect(home.store))
    counts = frozen.counts
    assert (counts["sft"], counts["pair"], counts["unpaired"]) == (10, 12, 2)
    assert counts["rows"] == len(frozen.rows) == counts["train"] + counts["held_out"] == 24
    assert counts["prompts"] == len(frozen.prompts) == 11
    assert counts["unusable"] == counts["ties"] == 1
    assert counts["people"] == 1
    assert all(isinstance(count, int) for count in counts.values())
    assert dict(home.store.snapshots.get(frozen.sha).counts) == dict(counts)


def test_no_secret_enters_and_each_scrub_is_recorded(home: Home) -> None:
    teach(home)
    frozen = freeze(home.store, collect(home.store))
    kept = json.dumps([r.payload for r in home.store.snapshots.rows(frozen.sha)], ensure_ascii=False)
    assert not any(secret in kept for secret in SECRETS)
    assert all(mark in kept for mark in ("[EMAIL]", "[CARD]", "[SECRET]"))
    with home.store.database.read() as session:
        scrubs = session.scalars(select(Scrub)).all()
    assert sorted(scrub.entities[0]["kind"] for scrub in scrubs) == ["CARD", "EMAIL", "SECRET"]
    assert all(scrub.blob_sha != scrub.out_blob_sha for scrub in scrubs)
    freeze(home.store, collect(home.store))
    with home.store.database.read() as session:
        assert len(session.scalars(select(Scrub)).all()) == 3


def test_token_ids_of_scrubbed_text_do_not_survive(home: Home) -> None:
    teach(home)
    rows = freeze(home.store, collect(home.store)).rows
    for row in rows:
        if isinstance(row, PairRow):
            for reply in (row.chosen, row.rejected):
                touched = "[" in reply.text or any("[" in m.content for m in row.prompt)
                assert (reply.sampled is None) == (touched or reply.generation_id is None)
    leaky = next(r.rejected for r in rows if isinstance(r, PairRow) and "[SECRET]" in r.rejected.text)
    assert leaky.generation_id is not None
    raw = home.store.database.path
    assert raw is not None
    with sqlite3.connect(raw) as database:
        stored = "".join(str(row) for row in database.execute("select payload from snapshot_row"))
    assert json.dumps(list(map(ord, "hunter22")))[1:-1].replace(" ", "") not in stored.replace(" ", "")


def test_feedback_leads_to_its_rows_and_rows_to_their_feedback(home: Home) -> None:
    teach(home)
    frozen = freeze(home.store, collect(home.store))
    for row in frozen.rows:
        for feedback_id in row.origin.feedback_ids:
            found = {item.row_sha for _, item in home.store.snapshots.containing(feedback_id)}
            assert len(found) >= 1
    version = home.store.versions.add(
        "v1", "adapter", weights_sha256="a" * 64, folder="versions/v1", snapshot_sha=frozen.sha
    )
    assert set(home.store.versions.feedback_ids(version.id)) == {i for r in frozen.rows for i in r.origin.feedback_ids}
    assert home.store.versions.feedback_counts() == {version.id: frozen.counts["feedback"]}


def test_erasing_either_thumb_empties_the_pair_made_of_both(home: Home) -> None:
    question = home.ask("A name for a cat?")
    up, down = home.thumb(home.answer(question, "Tom."), 1), home.thumb(home.answer(question, "Dog."), -1)
    for gone, left in ((up, [False]), (down, [])):
        frozen = freeze(home.store, collect(home.store))
        home.store.feedback.erase(gone.id, home.person())
        assert [row.label for row in load(home.store, frozen.sha).rows if isinstance(row, UnpairedRow)] == left
        assert not any(isinstance(row, PairRow) for row in load(home.store, frozen.sha).rows)
    assert collect(home.store).rows == ()


def test_deleting_a_conversation_empties_its_rows_and_prompts(home: Home) -> None:
    teach(home)
    frozen = freeze(home.store, collect(home.store))
    target = frozen.rows[0].origin.conversation_id
    home.store.conversations.delete(target, home.person())
    left = load(home.store, frozen.sha)
    assert {p.conversation_id for p in left.prompts} == {p.conversation_id for p in frozen.prompts} - {target}
    assert target not in {row.origin.conversation_id for row in left.rows}
    assert "Tell everybody" not in json.dumps([r.payload for r in home.store.snapshots.rows(frozen.sha)])
    assert freeze(home.store, collect(home.store)).sha != frozen.sha


def test_a_comparison_across_conversations_goes_with_either(home: Home) -> None:
    a, b = home.answer(home.ask("A joke?"), "No."), home.answer(home.ask("A song?"), "La.")
    home.compare(a, b, "a")
    home.store.conversations.delete(b.conversation_id, home.person())
    assert home.store.feedback.live() == []


def test_what_is_taken_back_between_collecting_and_freezing_stays_out(home: Home) -> None:
    home.person("ada", train=True)
    hers = home.thumb(home.answer(home.ask("My name?", handle="ada"), "Ada."), 1)
    erased = home.thumb(home.answer(home.ask("2+2?"), "4"), 1)
    kept = home.thumb(home.answer(home.ask("A colour, perhaps?"), "Red."), 1)
    collected = collect(home.store)
    home.person("ada", train=False)
    home.store.feedback.erase(erased.id, home.person())
    frozen = freeze(home.store, collected)
    assert [row.origin.feedback_ids for row in frozen.rows] == [(kept.id,)]
    assert hers.conversation_id not in {prompt.conversation_id for prompt in frozen.prompts}


def test_a_changed_row_is_noticed(home: Home) -> None:
    teach(home)
    frozen = freeze(home.store, collect(home.store))
    payload = {**to_payload(frozen.rows[0]), "margin": 2.0}
    with home.store.database.write() as session:
        session.execute(update(SnapshotRow).where(SnapshotRow.position == 0).values(payload=payload))
    with pytest.raises(Unavailable, match="was changed"):
        load(home.store, frozen.sha)
    with pytest.raises(NotFound):
        load(home.store, "0" * 64)


def test_rows_survive_json(home: Home) -> None:
    teach(home)
    for row in collect(home.store).rows:
        again = from_payload(json.loads(json.dumps(to_payload(row))), row.split)
        assert again == row


def test_scrubbed_rows_for_a_file(home: Home) -> None:
    teach(home)
    rows = scrubbed(collect(home.store).rows)
    assert rows == list(freeze(home.store, collect(home.store)).rows)
    assert scrubbed(rows) == rows
    assert scrubbed([replace(rows[0], weight=0.5)])[0].weight == 0.5
