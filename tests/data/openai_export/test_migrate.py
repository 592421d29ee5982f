"""A whole export into a real home: what becomes what, twice, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.homes import Home
from tests.data.openai_export import exports
from tutee.data.from_feedback import collect
from tutee.data.openai_export import Report, migrate
from tutee.errors import InvalidInput, TooLarge


def bring(home: Home, source: Path, handle: str = "owner") -> Report:
    return migrate(home.store, source, home.person(handle, train=True))


def refused(report: Report) -> set[tuple[str, int]]:
    return {(row.file, row.line) for row in report.refused}


def test_the_single_file_layout_becomes_conversations_and_feedback(home: Home, tmp_path: Path) -> None:
    report = bring(home, exports.old_layout(tmp_path / "export.zip"))
    assert report.added == {"conversations": 2, "messages": 7, "feedback": 3}
    assert report.skipped["tool calls and thoughts"] == 2
    assert report.skipped["images and files"] == 1
    chats = {chat.title: chat for chat in home.store.conversations.list(home.person())}
    chat = chats["Capitals"]
    assert chat.system == "Answer briefly."
    assert chat.created_at == exports.T0
    tree = home.store.messages.tree(chat.id)
    assert [(turn.role, turn.content) for turn in tree] == [
        ("user", "Capital of France?"),
        ("assistant", "Lyon."),
        ("assistant", "Paris."),
        ("user", "What is 1?"),
        ("assistant", "It is 1."),
    ]
    path = home.store.messages.path(chat.head_message_id or "")
    assert [turn.content for turn in path] == ["Capital of France?", "Paris.", "What is 1?", "It is 1."]


def test_what_was_said_can_be_learned_from(home: Home, tmp_path: Path) -> None:
    bring(home, exports.old_layout(tmp_path / "export.zip"))
    collected = collect(home.store)
    assert collected.unusable == ()
    pairs = [row for row in collected.rows if hasattr(row, "chosen")]
    assert {(row.chosen.text, row.rejected.text) for row in pairs} == {("Paris.", "Lyon.")}
    thumbs = {event.payload["value"]: event for event in home.store.feedback.live(kind="thumb")}
    assert thumbs[1].comment == "Right."
    assert thumbs[-1].reasons == ["not-true"]


def test_feedback_that_cannot_be_taken_is_named_by_file_and_line(home: Home, tmp_path: Path) -> None:
    source = exports.old_layout(tmp_path / "export.zip")
    report = bring(home, source)
    why = {(row.file, row.line): row.why for row in report.refused}
    assert len(why) == 3
    with zipfile.ZipFile(source) as archive:
        text = archive.read("message_feedback.json").decode().splitlines()
    for (file, line), reason in why.items():
        if file == "message_feedback.json":
            row = " ".join(text[line - 1 : line + 5])
            assert ("gone" in row and "gone" in reason) or ('"none"' in row and "'none'" in reason)
        else:
            assert (file, reason) == ("model_comparisons.json", "does not name the two messages.")


def test_a_second_run_adds_nothing_and_the_newer_layout_only_what_is_new(home: Home, tmp_path: Path) -> None:
    first = bring(home, exports.old_layout(tmp_path / "old.zip"))
    again = bring(home, exports.old_layout(tmp_path / "old.zip"))
    assert not +again.added
    assert again.known == first.added
    newer = bring(home, exports.new_layout(tmp_path / "new.zip"))
    assert newer.added == {"conversations": 1, "messages": 2}
    assert [row for row in newer.refused if row.file == "file-1.dat"]


def test_two_people_bring_the_same_export(home: Home, tmp_path: Path) -> None:
    source = exports.new_layout(tmp_path / "new.zip")
    assert bring(home, source, "owner").added == bring(home, source, "another").added
    assert len(home.store.conversations.list(home.person("another"))) == 3


def test_a_conversation_that_went_on_gets_its_new_turns(home: Home, tmp_path: Path) -> None:
    chat = exports.short("s1")
    bring(home, exports.write_zip(tmp_path / "1.zip", {"conversations.json": [chat]}))
    chat["mapping"]["more"] = exports.node("more", "s1-q", [], exports.message("more", "assistant", "Hey", 53))
    chat["mapping"]["s1-q"]["children"].append("more")
    report = bring(home, exports.write_zip(tmp_path / "2.zip", {"conversations.json": [chat]}))
    assert (report.added["messages"], report.known["messages"]) == (1, 2)
    (found,) = home.store.conversations.list(home.person())
    siblings = [turn.sibling_index for turn in home.store.messages.tree(found.id) if turn.role == "assistant"]
    assert siblings == [0, 1]


def test_the_objects_of_the_api(home: Home, tmp_path: Path) -> None:
    report = bring(home, exports.platform(tmp_path / "export"))
    assert report.added == {
        "files": 3,
        "jobs": 1,
        "job events": 1,
        "job checkpoints": 1,
        "stored completions": 1,
        "feedback": 1,
        "evals": 1,
        "eval runs": 1,
        "eval output items": 1,
    }
    why = {row.file: row.why for row in report.refused}
    assert set(why) == {"jobs.json", "completions.json", "lost.jsonl", "items.jsonl"}
    assert "ftjob-open was still running" in why["jobs.json"]
    assert ("items.jsonl", 2) in refused(report)
    store = home.store
    with store.files.open("file-train1") as stream:
        assert stream.read() == exports.TRAIN
    assert {file.purpose for file in store.files.list()} == {"fine-tune", "fine-tune-results", "evals"}
    job = store.jobs.get("ftjob-old1")
    assert (job.status, job.method, job.error, job.metadata_) == ("succeeded", "supervised", None, {"team": "support"})
    assert job.config["hyperparameters"] == {"n_epochs": 3}
    (kept,) = store.completions.list(None, metadata={"rating": "1"})
    assert kept.messages == [{"role": "user", "content": "write a haiku about ai"}]
    again = bring(home, tmp_path / "export")
    assert not +again.added
    assert again.known == report.added


def kept(id: str, text: str, asked: str = "Tell me", **metadata: str) -> dict[str, Any]:
    """A stored completion as a script over the SDK saved it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return exports.COMPLETION | {
        "id": id,
        "choices": [choice],
        "metadata": metadata,
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": asked}],
    }


def test_opinions_in_the_metadata_of_completions_become_feedback(home: Home, tmp_path: Path) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    calling = kept("c-call", "", asked="Look", rating="up")
    calling["choices"][0] |= {"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    picture = kept("c-seen", "A cat", rating="up")
    picture["messages"] = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    rows = [
        kept("c-best", "Gladly, friend.", preferred_over="c-worse", rating="up", team="a"),
        kept("c-worse", "No.", correction="Yes, gladly."),
        calling,
        kept("c-purple", "Hm", rating="purple"),
        kept("c-other", "Hm", asked="Else", preferred_over="c-best"),
        picture,
        kept("c-silent", "Hm"),
    ]
    folder = tmp_path / "export"
    folder.mkdir()
    exports.write(folder / "completions.json", rows)
    report = bring(home, folder)
    assert report.added == {"stored completions": 7, "feedback": 4}
    assert sorted(row.why.split(":")[0] for row in report.refused) == sorted(
        f"{id}: what its metadata say of it is not taken".split(":")[0] for id in ("c-purple", "c-other", "c-seen")
    )
    live = home.store.feedback.live(home.person())
    assert sorted(event.kind for event in live) == ["compare", "edit", "thumb", "thumb"]
    collected = collect(home.store)
    pairs = {(row.chosen.text, row.rejected.text) for row in collected.rows if hasattr(row, "chosen")}
    assert {("Gladly, friend.", "No."), ("Yes, gladly.", "No.")} <= pairs
    assert collected.unusable == ()
    again = bring(home, folder)
    assert not +again.added
    assert again.known == report.added
    assert len(home.store.feedback.list(home.person(), limit=100)) == 4


def test_ids_that_are_another_persons_are_refused(home: Home, tmp_path: Path) -> None:
    bring(home, exports.platform(tmp_path / "export"), "owner")
    report = bring(home, tmp_path / "export", "another")
    assert report.added == {"files": 1}  # the one without an id of OpenAI's
    assert any("ftjob-old1 belongs to somebody else" in row.why for row in report.refused)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"id": "a", "mapping": {}},\n {"id": "b"},\n {"mapping": 1},\n 7]', {2, 3, 4}),
        ('[\n{"id": "a", "mapping": {}},\n{"id": ', {3}),
        ("[" * 100_000, {1}),
        ('[{"id": "a", "mapping": {"x": {"children": ["x"]}}}]', {1}),
        ('[{"id": "a", "mapping": {"x": {"children": ["y"]}, "y": {"parent": "x", "children": ["x"]}}}]', {1}),
        ('[{"id": "a", "mapping": {"x": {"parent": "y"}, "y": {"parent": "x"}}}]', {1}),
        ("\udcff".encode("utf-8", "surrogateescape"), {1}),
    ],
)
def test_damage_is_named_and_nothing_breaks(home: Home, tmp_path: Path, text: Any, line: set[int]) -> None:
    report = bring(home, exports.write_zip(tmp_path / "e.zip", {"conversations.json": text}))
    assert {row.line for row in report.refused} == line
    assert not +report.added


@pytest.mark.parametrize("name", ["../outside.json", "/etc/x.json", "a/../../b.json", "..\\x.json", "C:\\x.json"])
def test_a_name_that_leads_outside_is_refused(home: Home, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr(name, "[]")
    with pytest.raises(InvalidInput) as caught:
        bring(home, tmp_path / "e.zip")
    assert caught.value.code == "unsafe_archive"


def test_a_link_that_leads_outside_is_refused(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (tmp_path / "secret.jsonl").write_text("{}")
    (folder / "t.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(InvalidInput) as caught:
        bring(home, folder)
    assert caught.value.code == "unsafe_archive"


def test_a_zip_bomb_is_refused_without_unpacking_it(home: Home, tmp_path: Path) -> None:
    bomb = exports.write_zip(tmp_path / "e.zip", {"conversations.json": b" " * (64 << 20)})
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(TooLarge):
        bring(home, bomb)


def test_what_is_no_export_is_an_error(home: Home, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    for source in (tmp_path / "x", tmp_path / "none"):
        with pytest.raises(InvalidInput):
            bring(home, source)


def test_values_are_read_across_pieces(monkeypatch: pytest.MonkeyPatch, home: Home, tmp_path: Path) -> None:
    monkeypatch.setattr("tutee.data.openai_export.bundle.PIECE", 7)
    chats = [exports.short(f"é{i}") for i in range(3)]
    archive = exports.write_zip(tmp_path / "e.zip", {"conversations.json": json.dumps(chats, ensure_ascii=False)})
    report = bring(home, archive)
    assert (report.added["conversations"], report.refused) == (3, [])
