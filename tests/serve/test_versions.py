"""Versions: lineage, the gate with the votes so far, promotion and rollback under running streams, trace, improve."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serve.conftest import Running, Walk, add_candidate, serving
from tutee.settings import Settings
from tutee.store.records import SnapshotItem

LONG = {"max_tokens": 200, "ignore_eos": True}


@pytest.fixture
def own(make_home: Callable[..., Settings]) -> Iterator[Running]:
    """A server of one's own: promotions would disturb the shared one."""
    with serving(make_home()) as running:
        yield running


@pytest.fixture
def walk(own: Running) -> Iterator[Walk]:
    with own.http() as http:
        yield Walk(http)


def test_promotion_moves_chat_and_rollback_moves_it_back(own: Running, walk: Walk) -> None:
    id = add_candidate(own, "better", verdict="pass")
    before = walk.ask("Hello", temperature=0)["messages"][0]
    moved = walk.call("POST", "/versions/better/promote", {"reason": "liked"})
    assert (moved["from"]["number"], moved["to"]["id"]) == (0, id)
    assert walk.call("GET", "/me")["live"]["name"] == "better"
    after = walk.ask("Hello", temperature=0)["messages"][0]
    assert (before["version"]["number"], after["version"]["number"]) == (0, 1)
    assert before["content"] != after["content"]
    states = {row["name"]: row["state"] for row in walk.call("GET", "/versions")["data"]}
    assert states == {"better": "live", "tiny": "archived"}
    assert walk.call("POST", "/rollback", {"reason": "regret"})["to"]["number"] == 0
    again = walk.ask("Hello", temperature=0)["messages"][0]
    assert (again["content"], again["version"]["number"]) == (before["content"], 0)


def test_a_running_stream_ends_on_the_version_that_it_began_with(own: Running, walk: Walk) -> None:
    add_candidate(own, "better", verdict="pass")
    client = own.sdk()
    ask: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    long = {"max_tokens": 150, "extra_body": {"ignore_eos": True}}
    alone = client.chat.completions.create(model="tiny", **{k: v for k, v in ask.items() if k != "model"}, **long)
    stream = client.chat.completions.create(**ask, **long, stream=True)
    native = walk.generate(walk.say("Long")["id"], **LONG)["messages"][0]
    pieces = [next(stream) for _ in range(5)]
    walk.call("POST", "/versions/1/promote", {})
    meanwhile = client.chat.completions.create(**ask, max_tokens=5)
    walk.call("POST", "/rollback", {})
    pieces += list(stream)
    text = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
    assert text == alone.choices[0].message.content
    assert {piece.system_fingerprint for piece in pieces} == {alone.system_fingerprint}
    assert meanwhile.system_fingerprint != alone.system_fingerprint
    done = walk.finished(native["id"])
    assert (done["state"], done["version"]["number"]) == ("complete", 0)


def test_a_promotion_by_another_process_takes_effect(own: Running, walk: Walk) -> None:
    """`tutee promote` writes the alias row and knows nothing of the server."""
    id = add_candidate(own, "better", verdict="pass")
    store = own.services.store
    store.promotions.promote(id, store.actors.get_or_create("owner").id, gate_id=store.gates.latest(id).id)
    deadline = time.monotonic() + 60
    while walk.call("GET", "/me")["live"]["id"] != id:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert walk.ask()["messages"][0]["version"]["id"] == id


def test_the_gate_guards_promotion_and_an_override_is_kept(own: Running, walk: Walk) -> None:
    add_candidate(own, "doubtful")
    refused = walk.call("POST", "/versions/doubtful/promote", {}, 400)["error"]
    assert refused["code"] == "gate_not_passed"
    assert walk.call("POST", "/versions/doubtful/promote", {"override": True}, 400)["error"]["param"] == "reason"
    walk.call("POST", "/versions/doubtful/promote", {"override": True, "reason": "demo tomorrow"})
    promotion = own.services.store.promotions.list()[0]
    assert (promotion.override, promotion.why) == (True, "demo tomorrow")
    assert walk.call("POST", "/rollback", {})["to"]["number"] == 0
    assert walk.call("POST", "/rollback", {}, 400)["error"]["code"] == "nothing_to_roll_back"


def test_a_version_that_cannot_be_loaded_does_not_go_live(own: Running, walk: Walk) -> None:
    add_candidate(own, "broken", verdict="pass")
    weights = own.services.settings.home / "versions" / "broken" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused = own.http().post("/v1/tutee/versions/broken/promote", json={})
    assert refused.status_code in (400, 503)
    assert refused.json()["error"]["message"]
    assert walk.call("GET", "/me")["live"]["number"] == 0


def test_votes_reach_the_gate(own: Running, walk: Walk) -> None:
    add_candidate(own, "rival")
    for i in range(3):
        shown = walk.ask(f"Question {i}", compare=True, max_tokens=3)
        store = own.services.store
        authors = [store.generations.get(m["generation_id"]).arm for m in shown["messages"]]
        winner = "ab"[authors.index("candidate")]
        body = {"kind": "compare", "presentation_id": shown["presentation_id"], "winner": winner, "dwell_ms": 4000}
        walk.call("POST", "/feedback", body)
    gate = walk.call("POST", "/versions/rival/gate")
    assert gate["verdict"] == "insufficient"
    votes = next(check for check in gate["checks"] if check["name"] == "blind votes")
    assert votes["numbers"]["wins"] == 3
    assert set(votes) >= {"name", "verdict", "reason", "value"}
    assert walk.call("GET", "/versions/rival")["gate"]["reasons"] == gate["reasons"]


def test_reject_needs_a_reason_and_a_candidate(own: Running, walk: Walk) -> None:
    add_candidate(own, "worse")
    assert walk.call("POST", "/versions/worse/reject", {}, 400)["error"]["param"] == "reason"
    assert walk.call("POST", "/versions/worse/reject", {"reason": "rude"})["state"] == "rejected"
    assert walk.call("POST", "/versions/worse/reject", {"reason": "rude"}, 400)["error"]["code"] == "not_a_candidate"
    assert walk.call("POST", "/versions/0/reject", {"reason": "x"}, 400)["error"]["code"] == "not_a_candidate"


def test_a_version_shows_its_lineage_and_scores(own: Running, walk: Walk) -> None:
    id = add_candidate(own, "scored")
    store, base = own.services.store, own.services.live.base.version
    store.evaluations.add(id, base.id, "drift.kl", 20, 1.5, 1.0, 2.0, "mean", "block", {"x": 1})
    view = walk.call("GET", f"/versions/{id}")
    assert view == walk.call("GET", "/versions/scored") == walk.call("GET", "/versions/1")
    assert (view["parent_id"], view["kind"], view["state"]) == (base.id, "adapter", "candidate")
    score = view["scores"][0]
    assert (score["suite"], score["estimate"], score["baseline"], score["role"]) == ("drift.kl", 1.5, base.id, "block")
    assert view["gate"]["verdict"] == "insufficient"
    assert walk.call("GET", "/versions/chat")["id"] == base.id


def test_trace_goes_from_feedback_to_versions_and_back(own: Running, walk: Walk) -> None:
    answer = walk.ask()["messages"][0]
    thumb = walk.call("POST", "/feedback", {"kind": "thumb", "message_id": answer["id"], "value": 1})
    store = own.services.store
    item = SnapshotItem("row", "train", "unpaired", {"kind": "unpaired"}, thumb["id"], thumb["actor"])
    store.snapshots.add("cafe", "mixed", {"unpaired": 1}, [item])
    store.versions.add("taught", "adapter", weights_sha256="1", folder="versions/x", snapshot_sha="cafe")
    traced = walk.call("GET", f"/trace/{thumb['id']}")
    assert traced["feedback"]["id"] == thumb["id"]
    assert traced["rows"] == [{"snapshot_sha": "cafe", "split": "train", "kind": "unpaired"}]
    assert [version["name"] for version in traced["versions"]] == ["taught"]
    back = walk.call("GET", "/trace/taught")
    assert [row["id"] for row in back["feedback"]] == [thumb["id"]]
    assert back["version"]["name"] == "taught"
    snapshot = walk.call("GET", "/snapshots/cafe")
    assert (snapshot["split"], snapshot["counts"]) == ({"train": 1, "held_out": 0}, {"unpaired": 1})
    assert "rows" not in snapshot
    assert walk.call("GET", "/snapshots/cafe?rows=true")["rows"][0]["row_sha"] == "row"
    erased = walk.call("DELETE", f"/feedback/{thumb['id']}")
    assert len(erased["tainted_versions"]) == 1
    shown = walk.call("GET", "/trace/taught")["version"]
    assert (shown["feedback_count"], shown["erased_count"]) == (1, 1)


def test_improve_previews_queues_and_shows_the_job(own: Running, walk: Walk) -> None:
    empty = walk.call("GET", "/improve")
    assert (empty["ready"], empty["running_job"], empty["since"]["number"]) == (False, None, 0)
    turn = walk.say("How?")
    demo = {"kind": "demo", "conversation_id": walk.conversation, "parent_id": turn["id"], "content": "Like this, so."}
    walk.call("POST", "/feedback", demo)
    ready = walk.call("GET", "/improve")
    assert ready["counts"] == {"demo": 1}
    assert sum(ready["usable"].values()) == 1
    assert set(ready["held_out"]) >= {"rows", "people", "conversations"}
    assert ready["advice"]
    job = walk.call("POST", "/improve", {"suffix": "mine", "seed": 2, "settings": {"sample": 3}})
    assert (job["status"], job["method"], job["suffix"]) == ("queued", {"type": "improve"}, "mine")
    stored = own.services.store.jobs.get(job["id"])
    assert stored.config["settings"] == {"sample": 3}
    own.services.store.jobs.lease("w", 30)
    own.services.store.jobs.progress(job["id"], "train", 3, 10, 12.5, stages=["collect", "train"], health="learning")
    own.services.store.jobs.metric(job["id"], 3, {"loss": 0.5})
    shown = walk.call("GET", f"/jobs/{job['id']}")
    assert shown["status"] == "running"
    assert shown["progress"] == {
        "stage": "train",
        "stages": ["collect", "train"],
        "step": 3,
        "total_steps": 10,
        "eta_s": 12.5,
        "health": "learning",
        "samples": [],
    }
    assert shown["series"] == {"loss": [[3, 0.5]]}
    assert walk.call("GET", "/improve")["running_job"] == job["id"]
    assert [row["id"] for row in walk.call("GET", "/jobs?limit=1")["data"]] == [job["id"]]
    assert walk.call("POST", "/improve", {}, 400)["error"]["code"] == "improvement_unfinished"
    assert job["id"] not in [row.id for row in own.sdk().fine_tuning.jobs.list()]
    asked = walk.call("POST", f"/jobs/{job['id']}/pause")
    assert (asked["status"], asked["pause_requested"]) == ("running", True)
    assert walk.call("GET", "/improve")["advice"].startswith("An improvement is paused.")
    assert walk.call("POST", f"/jobs/{job['id']}/resume")["pause_requested"] is False
    assert walk.call("POST", f"/jobs/{job['id']}/resume", {}, 400)["error"]["code"] == "job_not_paused"
    walk.call("POST", f"/jobs/{job['id']}/cancel")
    assert own.services.store.jobs.cancelled(job["id"])
    for body, param in (({"seed": "x"}, "seed"), ({"suffix": ""}, "suffix"), ({"settings": 3}, "settings")):
        assert walk.call("POST", "/improve", body, 400)["error"]["param"] == param


def test_the_export_is_a_zip_with_what_the_caller_said(own: Running, walk: Walk) -> None:
    import io
    import zipfile

    walk.ask("Remember the heliotrope")
    reply = own.http().get("/v1/tutee/export")
    assert reply.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(reply.content))
    assert any(b"heliotrope" in archive.read(name) for name in archive.namelist())
    others = zipfile.ZipFile(io.BytesIO(own.http("somebody").get("/v1/tutee/export").content))
    assert not any(b"heliotrope" in others.read(name) for name in others.namelist())


def test_many_streams_while_versions_come_and_go(own: Running, walk: Walk) -> None:
    add_candidate(own, "better", verdict="pass")
    results: list[str] = []

    def stream() -> None:
        chunks = own.sdk().chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=100,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        results.append([c.finish_reason for chunk in chunks for c in chunk.choices][-1])

    threads = [threading.Thread(target=stream) for _ in range(6)]
    for thread in threads:
        thread.start()
        time.sleep(0.03)
        if walk.call("GET", "/me")["live"]["number"] == 0:
            walk.call("POST", "/versions/better/promote", {"override": True, "reason": "to and fro"})
        else:
            walk.call("POST", "/rollback", {})
    for thread in threads:
        thread.join()
    assert results == ["length"] * 6
