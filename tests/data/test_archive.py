"""What is written can be read into another home, is the same but for ids, and a broken archive changes nothing."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.homes import Home, open_home
from tutee.data import archive
from tutee.data.archive import export_actor, import_archive
from tutee.data.from_feedback import collect
from tutee.data.rows import kind_of
from tutee.errors import InvalidInput, NotFound, TooLarge

ID = re.compile(r'"((?:conv|msg|gen|pres|fb|consent)-[0-9a-f]{32})"')


def talk(home: Home) -> None:
    question = home.ask("What is the capital of France? é 👍", handle="ada", system="Be brief.")
    a, b = home.answer(question, "Paris."), home.answer(question, "London.", finish="length")
    home.compare(a, b, "a", strength=3, dwell_ms=4000)
    home.thumb(a, -1)
    home.thumb(a, 1)
    home.edit(b, "Paris, of course.")
    home.demo(question, "Paris.")
    home.ask("And Spain?", handle="ada", after=a)
    home.ask("", handle="ada")
    home.person("ada", train=True)
    home.answer(home.ask("Still writing?", handle="ada"), "Wel", finish=None)
    home.thumb(home.answer(home.ask("Somebody else's.", handle="bob"), "Yes."), 1)


def exported(home: Home, handle: str = "ada") -> io.BytesIO:
    stream = io.BytesIO()
    export_actor(home.store, home.person(handle), stream)
    return stream


def contents(stream: io.BytesIO) -> dict[str, str]:
    """Every file's text, ids replaced by the order of their appearance."""
    order: dict[str, str] = {}
    with zipfile.ZipFile(stream) as zipped:
        texts = {name: zipped.read(name).decode() for name in zipped.namelist()}
    for text in texts.values():
        for id in ID.findall(text):
            order.setdefault(id, f"{id.split('-')[0]} {len(order)}")
    return {name: ID.sub(lambda match: f'"{order[match[1]]}"', text) for name, text in texts.items()}


def test_reading_and_writing_again_gives_the_same_but_for_ids(home: Home, tmp_path: Path) -> None:
    talk(home)
    first = exported(home)
    with open_home(tmp_path / "other") as other:
        counts = import_archive(other.store, first, other.person("ada"))
        second = exported(other)
        assert counts == {
            "conversations": 3,
            "messages": 7,
            "generations": 2,
            "presentations": 1,
            "feedback": 5,
            "consents": 1,
        }
        before, after = contents(first), contents(second)
        before.pop("archive.json")
        assert json.loads(after.pop("archive.json"))["format"] == "tutee-archive-1"
        assert after == before
        assert sorted(map(kind_of, collect(other.store).rows)) == ["pair", "pair", "sft", "sft", "unpaired"]


def test_what_was_learnable_is_learnable_there(home: Home, tmp_path: Path) -> None:
    talk(home)
    here = [row for row in collect(home.store).rows if row.origin.actor_id == home.person("ada")]
    with open_home(tmp_path / "other") as other:
        import_archive(other.store, exported(home), other.person("ada"))
        there = collect(other.store).rows
        said = [[(kind_of(row), row.prompt, row.split, row.weight) for row in rows] for rows in (here, there)]
        assert said[0] == said[1]


def test_the_same_data_gives_the_same_bytes(home: Home) -> None:
    talk(home)
    assert exported(home).getvalue() == exported(home).getvalue()


def test_only_ones_own_data_is_in_it(home: Home) -> None:
    talk(home)
    assert "Somebody else" not in str(contents(exported(home)))
    assert "Wel" not in contents(exported(home))["messages.jsonl"]
    with pytest.raises(NotFound):
        export_actor(home.store, "actor-0", io.BytesIO())


def test_an_unknown_version_is_kept_by_its_hash(home: Home, tmp_path: Path) -> None:
    talk(home)
    folder = tmp_path / "bare"
    from tutee.store import Store

    with Store.open(f"sqlite:///{folder / 'tutee.db'}", folder) as bare:
        first = exported(home)
        import_archive(bare, first, bare.actors.get_or_create("ada").id)
        (version,) = bare.versions.list()
        assert (version.state, version.weights_sha256) == ("archived", "w" * 64)
        base = bare.versions.ensure_base("tiny", "w" * 64, "models/tiny")
        assert (base.name, base.state) == ("tiny", "live")
        second = io.BytesIO()
        export_actor(bare, bare.actors.get_or_create("ada").id, second)
        assert contents(second)["generations.jsonl"] == contents(first)["generations.jsonl"]


def test_a_decision_made_here_is_not_overruled_by_an_archive(home: Home, tmp_path: Path) -> None:
    talk(home)
    with open_home(tmp_path / "other") as other:
        ada = other.person("ada", train=False)
        assert import_archive(other.store, exported(home), ada)["consents"] == 0
        assert not other.store.consents.granted(ada, "train")


def rewritten(stream: io.BytesIO, name: str, change: Any) -> io.BytesIO:
    """The archive with the first line of one file changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.namelist():
            text = old.read(entry).decode()
            if entry == name:
                first, _, rest = text.partition("\n")
                text = f"{json.dumps(json.loads(first) | change)}\n{rest}" if isinstance(change, dict) else change
            new.writestr(entry, text)
    return out


BROKEN: list[tuple[str, Any, str]] = [
    ("archive.json", {"format": "x"}, "archive.json does not say format"),
    ("archive.json", "", "archive.json does not say format"),
    ("conversations.jsonl", {"id": 3}, "conversations.jsonl line 1: has no 'id'."),
    ("conversations.jsonl", {"system": 3}, "conversations.jsonl line 1: "),
    ("conversations.jsonl", {"train": "yes"}, "conversations.jsonl line 1: train is 'yes'."),
    ("conversations.jsonl", "{", "conversations.jsonl line 1 is not JSON."),
    ("conversations.jsonl", "", "messages.jsonl line 1: 'conv-"),
    ("messages.jsonl", {"role": "robot"}, "messages.jsonl line 1: role is 'robot'; it must be one of"),
    ("messages.jsonl", {"state": "streaming"}, "messages.jsonl line 1: state is 'streaming'"),
    ("messages.jsonl", {"created_at": True}, "messages.jsonl line 1: created_at is True."),
    ("messages.jsonl", {"parent_id": "msg-0"}, "messages.jsonl line 1: 'msg-0' is missing or unknown."),
    ("generations.jsonl", {"token_ids": [1]}, "generations.jsonl line 1: does not have one log-probability a token."),
    ("generations.jsonl", {"token_ids": [2**40]}, "generations.jsonl line 1: "),
    ("presentations.jsonl", {"generation_ids": []}, "presentations.jsonl line 1: has 0 answers."),
    ("feedback.jsonl", {"payload": {"winner": "c"}}, "feedback.jsonl line 1: 'payload.winner' must be one of"),
    ("feedback.jsonl", {"kind": "magic"}, "feedback.jsonl line 1: kind is 'magic'"),
    ("feedback.jsonl", {"strength": 9}, "feedback.jsonl line 1: 'strength' must be"),
    ("conversations.jsonl", {"title": 3}, "conversations.jsonl line 1: title is 3."),
    ("conversations.jsonl", {"head_message_id": []}, "conversations.jsonl: head_message_id is [], which is no message"),
    ("conversations.jsonl", {"head_message_id": "{conversation}"}, "conversations.jsonl: head_message_id is"),
    ("messages.jsonl", {"conversation_id": "{conversation}"}, "messages.jsonl line 2: hangs on a message of another"),
    ("messages.jsonl", {"sibling_index": 2**70}, "messages.jsonl line 1: sibling_index is"),
    ("messages.jsonl", {"language": "\ud800"}, "messages.jsonl line 1: language is"),
    ("messages.jsonl", {"created_at": float("nan")}, "messages.jsonl line 1: created_at is nan."),
    ("generations.jsonl", {"token_ids": [-1], "logprobs": [0]}, "generations.jsonl line 1: has token ids or"),
    ("generations.jsonl", {"message_id": "{message}"}, "generations.jsonl line 1: does not belong to an answer"),
    ("feedback.jsonl", {"presentation_id": None}, "feedback.jsonl line 1: A compare needs 'presentation_id'."),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN)
def test_a_broken_archive_is_refused_whole(home: Home, tmp_path: Path, name: str, change: Any, message: str) -> None:
    talk(home)
    whole = exported(home)
    with zipfile.ZipFile(whole) as zipped:  # the last conversation, and a question
        places = {
            "{conversation}": json.loads(zipped.read("conversations.jsonl").splitlines()[-1])["id"],
            "{message}": json.loads(zipped.read("messages.jsonl").splitlines()[0])["id"],
        }
    if isinstance(change, dict):
        change = {key: places.get(value, value) if isinstance(value, str) else value for key, value in change.items()}
    with open_home(tmp_path / "other") as other:
        with pytest.raises(InvalidInput) as error:
            import_archive(other.store, rewritten(whole, name, change), other.person("ada"))
        assert error.value.message.startswith(message)
        assert error.value.param == "archive"
        assert len(other.store.conversations.list(other.person("ada"))) == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"hello"])
def test_what_is_no_zip_is_refused(home: Home, content: bytes) -> None:
    with pytest.raises(InvalidInput, match="not an archive"):
        import_archive(home.store, io.BytesIO(content), home.person())


def test_an_archive_whose_bytes_were_damaged_is_refused(home: Home) -> None:
    talk(home)
    damaged = bytearray(exported(home).getvalue())
    with zipfile.ZipFile(io.BytesIO(damaged)) as zipped:
        entry = zipped.getinfo("messages.jsonl")
    start = entry.header_offset + 30 + len(entry.filename)
    damaged[start : start + 40] = b"\xff" * 40
    with pytest.raises(InvalidInput, match="not an archive"):
        import_archive(home.store, io.BytesIO(bytes(damaged)), home.person("eve"))


def test_a_vote_on_answers_that_are_still_written_stays_behind_with_them(home: Home, tmp_path: Path) -> None:
    question = home.ask("Name a river.", handle="ada")
    done, writing = home.answer(question, "The Rhine."), home.answer(question, "The El", finish=None)
    home.compare(done, writing, "a")
    with open_home(tmp_path / "other") as other:
        counts = import_archive(other.store, exported(home), other.person("ada"))
    assert (counts["messages"], counts["presentations"], counts["feedback"]) == (2, 0, 0)


def test_a_zip_that_swells_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(home)
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(TooLarge):
        import_archive(home.store, exported(home), home.person())
    monkeypatch.setattr(archive, "MAX_BYTES", 10**9)
    monkeypatch.setattr(archive, "MAX_LINE_BYTES", 100)
    with pytest.raises(InvalidInput, match="is longer than"):
        import_archive(home.store, exported(home), home.person())
