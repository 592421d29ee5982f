"""Conversations and what people say in them, stored and temporary."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serve.conftest import Running, Walk


def test_a_conversation_from_birth_to_deletion(walk: Walk) -> None:
    made = walk.call("POST", "/conversations", {"title": "Trip", "system": "Be kind."})
    assert (made["title"], made["system"], made["temporary"], made["train"]) == ("Trip", "Be kind.", False, None)
    assert made["messages"] == []
    path = f"/conversations/{made['id']}"
    assert walk.call("PATCH", path, {"title": "Journey", "train": False})["train"] is False
    changed = walk.call("PATCH", path, {"train": None})
    assert (changed["title"], changed["train"]) == ("Journey", None)
    assert walk.call("GET", path)["title"] == "Journey"
    assert walk.call("DELETE", path) == {"id": made["id"], "deleted": True, "tainted_versions": []}
    walk.call("GET", path, status=404)


def test_the_first_turn_names_an_untitled_conversation(walk: Walk) -> None:
    walk.begin()
    walk.say("  How\n do I " + "very " * 30 + "much?")
    title = walk.call("GET", f"/conversations/{walk.conversation}")["title"]
    assert title.startswith("How do I very")
    assert len(title) <= 60


def test_lists_page_and_search(server: Running) -> None:
    with server.http("lister") as http:
        walk = Walk(http)
        made = [walk.call("POST", "/conversations", {"title": f"number {i}"})["id"] for i in range(5)]
        seen: list[str] = []
        after = ""
        while True:
            page = walk.call("GET", f"/conversations?limit=2{after}")
            seen += [row["id"] for row in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert seen == made[::-1]
        walk.conversation = made[2]
        walk.say("a zebra crossing")
        assert [row["id"] for row in walk.call("GET", "/conversations?q=zebra")["data"]] == [made[2]]
        assert walk.call("GET", "/conversations?limit=101", status=400)["error"]["param"] == "limit"


def test_an_edited_turn_is_a_sibling_and_nothing_is_overwritten(walk: Walk) -> None:
    first = walk.ask("First wording")["messages"][0]
    second = walk.say("Second wording")
    answer = walk.finished(walk.generate(second["id"])["messages"][0]["id"])
    again = walk.finished(walk.generate(second["id"])["messages"][0]["id"])
    tree = walk.call("GET", f"/conversations/{walk.conversation}")
    by_id = {message["id"]: message for message in tree["messages"]}
    assert [m["content"] for m in tree["messages"] if m["role"] == "user"] == ["First wording", "Second wording"]
    assert (by_id[second["id"]]["sibling_index"], by_id[second["id"]]["sibling_count"]) == (1, 2)
    assert by_id[answer["id"]]["content"] == answer["content"]
    assert (by_id[again["id"]]["sibling_index"], by_id[again["id"]]["sibling_count"]) == (1, 2)
    assert by_id[first["id"]]["sibling_count"] == 1
    assert tree["head_message_id"] == again["id"]
    moved = walk.call("PATCH", f"/conversations/{walk.conversation}", {"head_message_id": first["id"]})
    assert moved["head_message_id"] == first["id"]


def test_two_tabs_that_write_at_once_both_keep_what_they_wrote(server: Running, walk: Walk) -> None:
    answer = walk.ask("Begin")["messages"][0]

    def tab(i: int) -> str:
        with server.http() as http:
            mine = Walk(http, walk.conversation)
            turn = mine.say(f"tab {i}", answer["id"])
            mine.call("PATCH", f"/conversations/{walk.conversation}", {"title": f"named by {i}"})
            return str(mine.finished(mine.generate(turn["id"])["messages"][0]["id"])["parent_id"])

    with ThreadPoolExecutor(4) as tabs:
        parents = list(tabs.map(tab, range(8)))
    messages = walk.call("GET", f"/conversations/{walk.conversation}")["messages"]
    turns = [message for message in messages if message["parent_id"] == answer["id"]]
    assert sorted(turn["content"] for turn in turns) == [f"tab {i}" for i in range(8)]
    assert sorted(turn["sibling_index"] for turn in turns) == list(range(8))
    assert {turn["sibling_count"] for turn in turns} == {8}
    assert sorted(parents) == sorted(turn["id"] for turn in turns)


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"content": None}, 400, "content"),
    ({"content": "  "}, 400, "content"),
    ({"content": 3}, 400, "content"),
    ({"content": "x" * 200_001}, 400, "content"),
    ({"content": "x", "parent_id": "msg-none"}, 404, ""),
    ({"content": "x", "parent_id": 7}, 400, "parent_id"),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD)
def test_a_bad_turn_is_refused_and_leaves_nothing(walk: Walk, body: dict[str, Any], status: int, param: str) -> None:
    id = walk.begin()
    error = walk.call("POST", f"/conversations/{id}/messages", body, status)["error"]
    assert not param or error["param"] == param
    assert walk.call("GET", f"/conversations/{id}")["messages"] == []


def test_a_parent_of_another_conversation_or_role_is_refused(walk: Walk) -> None:
    walk.begin()
    foreign = walk.say("elsewhere")
    here = walk.begin()
    turn = walk.say("here")
    path = f"/conversations/{here}"
    walk.call("POST", f"{path}/messages", {"content": "x", "parent_id": foreign["id"]}, 404)
    walk.call("POST", f"{path}/messages", {"content": "x", "parent_id": turn["id"]}, 400)
    walk.call("POST", f"{path}/generate", {"parent_id": foreign["id"]}, 404)
    walk.call("PATCH", path, {"head_message_id": foreign["id"]}, 404)
    assert walk.call("POST", f"{path}/generate", {}, 400)["error"]["param"] == "parent_id"


def test_a_temporary_chat_is_never_in_the_database(server: Running) -> None:
    with server.http("ghost") as http:
        walk = Walk(http)
        id = walk.begin(temporary=True, system="Hush.")
        answer = walk.ask("unheard-of word", ignore_eos=True)["messages"][0]
        assert answer["state"] == "complete"
        assert answer["content"]
        tree = walk.call("GET", f"/conversations/{id}")
        assert tree["temporary"]
        assert [m["role"] for m in tree["messages"]] == ["user", "assistant"]
        follow_up = walk.say("and more", answer["id"])
        assert len(walk.call("GET", f"/conversations/{id}")["messages"]) == 3
        walk.call("POST", f"/conversations/{id}/generate", {"parent_id": follow_up["id"], "compare": True}, 400)
        refused = walk.call("POST", "/feedback", {"kind": "thumb", "message_id": answer["id"], "value": 1}, 400)
        assert refused["error"]["code"] == "temporary"
        assert walk.call("GET", "/conversations")["data"] == []
        assert walk.call("GET", "/conversations?q=unheard")["data"] == []
        database = server.services.settings.home / "tutee.db"
        for file in database.parent.glob("tutee.db*"):
            assert b"unheard-of word" not in file.read_bytes()
        with server.http("other") as stranger:
            assert stranger.get(f"/v1/tutee/conversations/{id}").status_code == 404
            assert stranger.get(f"/v1/tutee/messages/{answer['id']}/stream").status_code == 404
        walk.call("DELETE", f"/conversations/{id}")
        walk.call("GET", f"/messages/{answer['id']}", status=404)
