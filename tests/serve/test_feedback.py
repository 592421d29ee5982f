"""Feedback by HTTP: what a client may say, and what the server knows better."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.conftest import Running, Walk
from tutee.data.from_feedback import collect
from tutee.data.snapshot import freeze
from tutee.serve.native.feedback import word_diff


def give(walk: Walk, kind: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    return dict(walk.call("POST", "/feedback", {"kind": kind} | fields, status))


def test_a_thumb_is_changed_and_taken_back_by_new_events(server: Running, walk: Walk) -> None:
    answer = walk.ask()["messages"][0]
    up = give(walk, "thumb", message_id=answer["id"], value=1, reasons=["clear"], comment="nice")
    down = give(walk, "thumb", message_id=answer["id"], value=-1)
    assert (up["supersedes"], down["supersedes"]) == (None, up["id"])
    assert up["presentation_id"] == answer["presentation_id"]
    assert (up["reasons"], up["comment"], up["payload"]) == (["clear"], "nice", {"value": 1})
    shown = walk.call("GET", f"/messages/{answer['id']}")["feedback"]["thumb"]
    assert (shown["value"], shown["feedback_id"]) == (-1, down["id"])
    give(walk, "thumb", message_id=answer["id"], value=0)
    assert walk.call("GET", f"/messages/{answer['id']}")["feedback"]["thumb"] is None
    kinds = [row["id"] for row in walk.call("GET", "/feedback?kind=thumb&limit=2")["data"]]
    assert len(kinds) == 2
    assert up["id"] not in kinds
    assert walk.call("GET", f"/feedback/{up['id']}")["usable"] is False


def test_a_vote_reveals_the_versions_and_the_conversation_follows_the_winner(walk: Walk) -> None:
    shown = walk.ask("Which?", compare=True)
    first, second = shown["messages"]
    vote = give(walk, "compare", presentation_id=shown["presentation_id"], winner="b", dwell_ms=5000)
    assert vote["payload"]["winner"] == "b"
    assert vote["payload"]["dwell_ms"] == 5000
    assert [entry["message_id"] for entry in vote["versions"]] == [first["id"], second["id"]]
    assert all(entry["version"]["name"] == "tiny" for entry in vote["versions"])
    assert walk.call("GET", f"/messages/{first['id']}")["version"]["name"] == "tiny"
    assert walk.call("GET", f"/conversations/{walk.conversation}")["head_message_id"] == second["id"]
    other = give(walk, "compare", presentation_id=shown["presentation_id"], winner="tie")
    assert other["supersedes"] == vote["id"]


def test_a_correction_keeps_the_original_and_shows_the_difference(walk: Walk) -> None:
    answer = walk.ask(ignore_eos=True, seed=1)["messages"][0]
    assert "\0" not in answer["content"]  # which no body may hold
    corrected = f"{answer['content']} and more"
    edit = give(walk, "edit", message_id=answer["id"], content=corrected, comment="was short")
    assert edit["payload"]["content"] == corrected
    assert "".join(p["text"] for p in edit["diff"] if p["op"] != "delete") == corrected
    assert "".join(p["text"] for p in edit["diff"] if p["op"] != "insert") == answer["content"]
    after = walk.call("GET", f"/messages/{answer['id']}")
    assert after["content"] == answer["content"]
    assert after["feedback"]["edit"] == {"content": corrected, "feedback_id": edit["id"]}
    assert give(walk, "edit", 400, message_id=answer["id"], content=answer["content"])["error"]["param"] == "content"


def test_a_demonstration_is_an_answer_by_a_person(walk: Walk) -> None:
    turn = walk.say("How should this be answered?")
    demo = give(walk, "demo", conversation_id=walk.conversation, parent_id=turn["id"], content="Like this.")
    assert demo["message"]["content"] == "Like this."
    assert demo["message"]["author"] == "owner"
    assert demo["message_id"] == demo["message"]["id"]
    assert demo["usable"] is True
    messages = walk.call("GET", f"/conversations/{walk.conversation}")["messages"]
    assert [(m["role"], m["version"]) for m in messages] == [("user", None), ("assistant", None)]


def test_a_flag(walk: Walk) -> None:
    answer = walk.ask()["messages"][0]
    assert give(walk, "flag", message_id=answer["id"], category="harmful")["payload"] == {"category": "harmful"}


def test_consent_decides_what_is_usable(server: Running) -> None:
    with server.http("carla") as http:
        walk = Walk(http)
        turn = walk.say("Show me")
        fields = {"conversation_id": walk.conversation, "parent_id": turn["id"], "content": "Like so, always."}
        demo = give(walk, "demo", **fields)
        assert demo["usable"] is False
        assert "consent" in demo["why_not"]
        walk.call("PUT", "/consent", {"train": True})
        assert walk.call("GET", f"/feedback/{demo['id']}")["usable"] is True
        walk.call("PATCH", f"/conversations/{walk.conversation}", {"train": False})
        assert walk.call("GET", f"/feedback/{demo['id']}")["usable"] is False


def test_erased_feedback_is_gone(walk: Walk) -> None:
    answer = walk.ask()["messages"][0]
    thumb = give(walk, "thumb", message_id=answer["id"], value=1)
    assert walk.call("DELETE", f"/feedback/{thumb['id']}") == {
        "id": thumb["id"],
        "deleted": True,
        "tainted_versions": [],
    }
    walk.call("GET", f"/feedback/{thumb['id']}", status=404)
    assert walk.call("GET", f"/messages/{answer['id']}")["feedback"]["thumb"] is None


@pytest.mark.parametrize("way", ["feedback", "conversation", "switch", "consent"])
def test_what_is_taken_back_leaves_the_folders_of_jobs(server: Running, way: str) -> None:
    store = server.services.store
    with server.http(f"dora-{way}") as http:
        walk = Walk(http)
        walk.call("PUT", "/consent", {"train": True})
        turn = walk.say("What must be forgotten?")
        demo = give(walk, "demo", conversation_id=walk.conversation, parent_id=turn["id"], content="All of this.")
        job = store.jobs.add("improve", "tiny", {}, snapshot_sha=freeze(store, collect(store)).sha)
        store.jobs.request_cancel(job.id)
        stage = store.home / "jobs" / job.id / "candidates.jsonl"
        stage.parent.mkdir(parents=True)
        stage.write_text("What must be forgotten?")
        walk.call("PUT", "/consent", {"train": True})
        assert stage.exists()
        if way == "feedback":
            walk.call("DELETE", f"/feedback/{demo['id']}")
        elif way == "conversation":
            walk.call("DELETE", f"/conversations/{walk.conversation}")
        elif way == "switch":
            walk.call("PATCH", f"/conversations/{walk.conversation}", {"train": False})
        else:
            walk.call("PUT", "/consent", {"train": False})
        assert not stage.exists()


def test_what_a_client_says_of_model_and_siblings_is_not_believed(walk: Walk) -> None:
    answer = walk.ask()["messages"][0]
    forged = {"presentation_id": "pres-x", "actor": "somebody", "model": "other", "version": "9"}
    thumb = give(walk, "thumb", message_id=answer["id"], value=1, **forged)
    assert thumb["presentation_id"] == answer["presentation_id"]
    assert thumb["actor"] == walk.call("GET", "/me")["actor"]["id"]


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "kind"),
    ({"kind": "applause"}, 400, "kind"),
    ({"kind": "thumb", "value": 1}, 400, "message_id"),
    ({"kind": "thumb", "message_id": "ANSWER"}, 400, "value"),
    ({"kind": "thumb", "message_id": "ANSWER", "value": 2}, 400, "value"),
    ({"kind": "thumb", "message_id": "ANSWER", "value": 1, "reasons": "x"}, 400, "reasons"),
    ({"kind": "thumb", "message_id": "ANSWER", "value": 1, "reasons": ["x" * 65]}, 400, "reasons[0]"),
    ({"kind": "thumb", "message_id": "ANSWER", "value": 1, "comment": "x" * 4001}, 400, "comment"),
    ({"kind": "thumb", "message_id": "TURN", "value": 1}, 400, "message_id"),
    ({"kind": "thumb", "message_id": "msg-none", "value": 1}, 404, ""),
    ({"kind": "compare", "winner": "a"}, 400, "presentation_id"),
    ({"kind": "compare", "presentation_id": "pres-none", "winner": "a"}, 404, ""),
    ({"kind": "compare", "presentation_id": "SINGLE", "winner": "a"}, 400, "presentation_id"),
    ({"kind": "edit", "message_id": "ANSWER", "content": " "}, 400, "content"),
    ({"kind": "edit", "message_id": "gen-none", "content": "x"}, 404, ""),
    ({"kind": "demo", "conversation_id": "conv-none", "parent_id": "TURN", "content": "x"}, 404, ""),
    ({"kind": "demo", "conversation_id": "HERE", "parent_id": "ANSWER", "content": "x"}, 400, "parent_id"),
    ({"kind": "flag", "message_id": "ANSWER"}, 400, "category"),
]


@pytest.fixture(scope="module")
def asked(server: Running) -> tuple[Walk, dict[str, str]]:
    walk = Walk(server.http())
    shown = walk.ask()
    answer = shown["messages"][0]
    names = {"ANSWER": answer["id"], "TURN": answer["parent_id"], "SINGLE": shown["presentation_id"]}
    return walk, names | {"HERE": walk.conversation}


@pytest.mark.parametrize(("body", "status", "param"), BAD)
def test_bad_feedback_is_refused_and_not_kept(
    asked: tuple[Walk, dict[str, str]], body: dict[str, Any], status: int, param: str
) -> None:
    walk, names = asked
    before = len(walk.call("GET", "/feedback?limit=100")["data"])
    body = {key: names.get(value, value) if isinstance(value, str) else value for key, value in body.items()}
    error = walk.call("POST", "/feedback", body, status)["error"]
    assert not param or error["param"] == param
    assert len(walk.call("GET", "/feedback?limit=100")["data"]) == before


def test_feedback_on_somebody_elses_answer_is_a_404(server: Running, walk: Walk) -> None:
    shown = walk.ask("Mine", compare=True)
    answer = shown["messages"][0]
    with server.http("thief") as http:
        thief = Walk(http)
        give(thief, "thumb", 404, message_id=answer["id"], value=-1)
        give(thief, "edit", 404, message_id=answer["id"], content="mine now")
        give(thief, "flag", 404, message_id=answer["id"], category="x")
        give(thief, "compare", 404, presentation_id=shown["presentation_id"], winner="a")
        give(thief, "demo", 404, conversation_id=walk.conversation, parent_id=answer["parent_id"], content="x")
        assert thief.call("GET", "/feedback")["data"] == []


@pytest.mark.parametrize(
    ("before", "after", "pieces"),
    [
        ("a b c", "a x c", [("equal", "a "), ("delete", "b"), ("insert", "x"), ("equal", " c")]),
        ("same", "same", [("equal", "same")]),
        ("", "new", [("insert", "new")]),
    ],
)
def test_the_difference_is_by_words(before: str, after: str, pieces: list[tuple[str, str]]) -> None:
    assert [(piece["op"], piece["text"]) for piece in word_diff(before, after)] == pieces


def test_a_long_difference_is_one_replacement() -> None:
    assert len(word_diff("a " * 5000, "b " * 5000)) == 2
