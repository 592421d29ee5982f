"""Answers that run in the server: followed, resumed, stopped, compared, and what a crash leaves."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.conftest import Running, Walk, add_candidate, halted, serving
from tutee.settings import Settings

LONG = {"max_tokens": 4000, "ignore_eos": True}


def events(walk: Walk, message_id: str, offset: int = 0) -> list[dict[str, Any]]:
    raw = walk.http.get(f"/v1/tutee/messages/{message_id}/stream?offset={offset}").content
    assert b"\r" not in raw
    assert b"\nid:" not in raw
    return [json.loads(event.removeprefix(b"data: ")) for event in raw.removesuffix(b"\n\n").split(b"\n\n")]


def test_an_answer_streams_and_is_stored_with_all_that_made_it(server: Running, walk: Walk) -> None:
    turn = walk.say("Tell me")
    shown = walk.generate(turn["id"], seed=11, max_tokens=20, top_p=0.9)
    answer = shown["messages"][0]
    assert answer["state"] == "streaming"
    said = events(walk, answer["id"])
    assert said[-1]["type"] == "done"
    text = "".join(event["text"] for event in said[:-1])
    offsets = [event["offset"] for event in said[:-1]]
    assert offsets == [len("".join(e["text"] for e in said[:i])) for i in range(len(said) - 1)]
    done = said[-1]["message"]
    assert (done["content"], done["state"], done["parent_id"]) == (text, "complete", turn["id"])
    assert done["presentation_id"] == shown["presentation_id"]
    live = server.services.live.chat
    assert done["version"] == {"id": live.version.id, "number": 0, "name": "tiny"}
    kept = server.services.store.generations.get(done["generation_id"])
    assert len(kept.token_ids) == len(kept.logprobs) == 20 or done["finish_reason"] == "stop"
    assert live.model.tokenizer.decode(kept.token_ids.tolist()) == text
    assert kept.sampling["seed"] == 11
    assert (kept.sampling["top_p"], kept.sampling["max_tokens"]) == (0.9, 20)
    assert kept.weights_sha256 == live.version.weights_sha256
    assert kept.tokenizer_sha256 == live.model.tokenizer.sha256
    assert kept.template_sha256 == live.model.chat_format.sha256
    assert kept.propensity == 1.0
    assert kept.ttft_s is not None
    assert (kept.logprobs <= 0).all()
    presentation = server.services.store.presentations.get(shown["presentation_id"], None)
    assert presentation.layout == "single"


def test_the_prompt_is_the_path_with_the_system_message(server: Running, walk: Walk) -> None:
    walk.begin(system="Be kind.")
    answer = walk.ask("One", max_tokens=5, ignore_eos=True)["messages"][0]
    walk.say("One, reworded")
    follow_up = walk.say("Two", answer["id"])
    second = walk.generate(follow_up["id"])["messages"][0]
    done = walk.finished(second["id"])
    kept = server.services.store.generations.get(done["generation_id"])
    prompt = server.services.live.chat.model.tokenizer.decode(kept.prompt_ids.tolist(), skip_special=True)
    parts = ["system\nBe kind.", "user\nOne", f"assistant\n{answer['content']}", "user\nTwo", "assistant\n"]
    assert prompt == "\n".join(parts)


def test_without_a_seed_one_is_drawn_and_kept(server: Running, walk: Walk) -> None:
    first = walk.ask("Seedless", ignore_eos=True)["messages"][0]
    kept = server.services.store.generations.get(first["generation_id"])
    assert isinstance(kept.sampling["seed"], int)
    assert (
        walk.ask("Seedless", seed=kept.sampling["seed"], ignore_eos=True)["messages"][0]["content"] == first["content"]
    )


def test_a_reload_in_mid_answer_goes_on_where_it_was(server: Running, walk: Walk) -> None:
    with halted(server.services.live.base.engine, steps=200):
        answer = walk.generate(walk.say("Long")["id"], max_tokens=300, ignore_eos=True)["messages"][0]
        path = f"/v1/tutee/messages/{answer['id']}"
        heard = ""
        with walk.http.stream("GET", f"{path}/stream") as reply:
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    heard += json.loads(line[6:])["text"]
                if len(heard) > 50:
                    break
        # The page is gone; the answer is not.
        now = walk.call("GET", f"/messages/{answer['id']}")
        assert now["state"] == "streaming"
        assert now["content"].startswith(heard)
        tree = walk.call("GET", f"/conversations/{walk.conversation}")
        assert tree["messages"][-1]["content"].startswith(heard)
    with server.http() as other_tab:
        others: list[str] = []
        thread = threading.Thread(
            target=lambda: others.append(events(Walk(other_tab), answer["id"])[-1]["message"]["content"])
        )
        thread.start()
        rest = events(walk, answer["id"], len(heard))
        thread.join()
    whole = rest[-1]["message"]["content"]
    assert heard + "".join(event["text"] for event in rest[:-1]) == whole
    assert others == [whole]
    late = events(walk, answer["id"], len(whole) - 3)
    assert late[0]["text"] == whole[-3:]
    assert events(walk, answer["id"], 10**6)[0]["type"] == "done"


def test_a_negative_offset_is_refused(walk: Walk) -> None:
    answer = walk.ask()["messages"][0]
    assert walk.call("GET", f"/messages/{answer['id']}/stream?offset=-1", status=400)["error"]["param"] == "offset"
    assert walk.call("GET", f"/messages/{answer['id']}/stream?offset=x", status=400)["error"]["param"] == "offset"


def test_stop_ends_the_engine_and_keeps_what_was_said(server: Running, walk: Walk) -> None:
    engine = server.services.live.base.engine
    answer = walk.generate(walk.say("Long")["id"], **LONG)["messages"][0]
    while not walk.call("GET", f"/messages/{answer['id']}")["content"]:
        time.sleep(0.01)
    stopped = walk.call("POST", f"/messages/{answer['id']}/stop")
    assert engine.stats.running == 0
    assert (stopped["state"], stopped["finish_reason"]) == ("stopped", "abort")
    assert stopped["content"]
    generated = engine.stats.generated_tokens_total
    time.sleep(0.1)
    assert engine.stats.generated_tokens_total == generated
    again = walk.call("POST", f"/messages/{answer['id']}/stop")
    assert again == stopped
    assert events(walk, answer["id"])[-1]["message"] == stopped


def test_deleting_a_conversation_stops_its_answer(server: Running, walk: Walk) -> None:
    walk.generate(walk.say("Long")["id"], **LONG)
    walk.call("DELETE", f"/conversations/{walk.conversation}")
    deadline = time.monotonic() + 60
    while server.services.live.base.engine.stats.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_blind_answers_reveal_nothing_until_the_vote(server: Running, walk: Walk) -> None:
    shown = walk.ask("Which is better?", compare=True, ignore_eos=True, seed=4)
    first, second = shown["messages"]
    assert first["version"] is None
    assert second["version"] is None
    assert first["parent_id"] == second["parent_id"]
    assert {first["sibling_index"], second["sibling_index"]} == {0, 1}
    assert first["content"] != second["content"]
    presentation = server.services.store.presentations.get(shown["presentation_id"], None)
    assert (presentation.layout, presentation.blind) == ("side_by_side", True)
    assert presentation.message_ids == (first["id"], second["id"])
    kept = [server.services.store.generations.get(m["generation_id"]) for m in (first, second)]
    assert kept[0].sampling["seed"] != kept[1].sampling["seed"]


def test_greedy_answers_of_one_version_are_not_compared(walk: Walk) -> None:
    body = {"parent_id": walk.say("x")["id"], "compare": True, "sampling": {"temperature": 0}}
    error = walk.call("POST", f"/conversations/{walk.conversation}/generate", body, 400)["error"]
    assert error["param"] == "sampling.temperature"
    assert len(walk.call("GET", f"/conversations/{walk.conversation}")["messages"]) == 1


def test_a_candidate_that_waits_for_votes_answers_beside_the_live_version(
    make_home: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.randbits", random.Random(2).getrandbits)  # seven tosses of a coin may all be heads
    with serving(make_home()) as running, running.http() as http:
        walk = Walk(http)
        add_candidate(running, "passed", verdict="pass")
        add_candidate(running, "unjudged", verdict=None)
        waiting = add_candidate(running, "waiting")
        live = running.services.live.chat.version.id
        store = running.services.store
        orders = set()
        for i in range(7):
            shown = walk.ask(f"Question {i}", compare=True, max_tokens=2)
            authors = [store.generations.get(m["generation_id"]).version_id for m in shown["messages"]]
            arms = [store.generations.get(m["generation_id"]).arm for m in shown["messages"]]
            assert set(authors) == {live, waiting}
            assert set(arms) == {"live", "candidate"}
            orders.add(tuple(authors))
        assert len(orders) == 2, "the order is never shuffled"
        assert store.presentations.get(shown["presentation_id"], None).selection_policy == "gate"
        single = walk.ask("Only one")["messages"][0]
        assert single["version"]["id"] == live


BAD_SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 3}, "sampling.temperature"),
    ({"max_tokens": 0}, "sampling.max_tokens"),
    ({"hotness": 1}, "sampling.hotness"),
    ({"stop": [1]}, "sampling.stop[0]"),
    ({"logprobs": True}, "sampling.logprobs"),
]


@pytest.mark.parametrize(("sampling", "param"), BAD_SAMPLING)
def test_bad_sampling_is_named_and_leaves_no_message(walk: Walk, sampling: dict[str, Any], param: str) -> None:
    turn = walk.say("x")
    body = {"parent_id": turn["id"], "sampling": sampling}
    assert walk.call("POST", f"/conversations/{walk.conversation}/generate", body, 400)["error"]["param"] == param
    assert len(walk.call("GET", f"/conversations/{walk.conversation}")["messages"]) == 1


def test_a_context_overflow_says_so_and_leaves_no_message(walk: Walk) -> None:
    turn = walk.say("word " * 2000)
    body = {"parent_id": turn["id"]}
    error = walk.call("POST", f"/conversations/{walk.conversation}/generate", body, 400)["error"]
    assert error["code"] == "context_length_exceeded"
    assert len(walk.call("GET", f"/conversations/{walk.conversation}")["messages"]) == 1
    walk.call("POST", f"/conversations/{walk.conversation}/generate", body | {"model": "none"}, 404)


def test_an_answer_that_still_streams_is_no_parent_and_takes_no_feedback(walk: Walk) -> None:
    answer = walk.generate(walk.say("Long")["id"], **LONG)["messages"][0]
    path = f"/conversations/{walk.conversation}"
    body = {"content": "too early", "parent_id": answer["id"]}
    assert walk.call("POST", f"{path}/messages", body, 400)["error"]["code"] == "still_streaming"
    thumb = {"kind": "thumb", "message_id": answer["id"], "value": 1}
    assert walk.call("POST", "/feedback", thumb, 400)["error"]["code"] == "still_streaming"
    walk.call("POST", f"/messages/{answer['id']}/stop")


def test_the_end_of_the_server_marks_the_answer_interrupted(make_home: Callable[..., Settings]) -> None:
    settings = make_home()
    with serving(settings) as running, running.http() as http:
        walk = Walk(http)
        answer = walk.generate(walk.say("Long")["id"], **LONG)["messages"][0]
        while not walk.call("GET", f"/messages/{answer['id']}")["content"]:
            time.sleep(0.01)
        time.sleep(0.4)  # longer than the recorder's pause
        conversation = walk.conversation
    with serving(settings) as running, running.http() as http:
        walk = Walk(http, conversation)
        turn, left = walk.call("GET", f"/conversations/{conversation}")["messages"]
        assert turn["content"] == "Long"
        assert left["state"] == "interrupted"
        assert left["content"]
        assert events(walk, left["id"])[-1]["message"]["state"] == "interrupted"
        retried = walk.finished(walk.generate(turn["id"])["messages"][0]["id"])
        assert retried["state"] == "complete"


def test_a_full_disk_delays_saving_and_loses_nothing(server: Running, walk: Walk, monkeypatch: Any) -> None:
    from tutee.serve.native import answers

    kept = server.services.store.answers
    real, failures = kept.save, []

    def full(*args: Any) -> list[str]:
        failures.append(1)
        if len(failures) < 3:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(kept, "save", full)
    monkeypatch.setattr(answers, "RETRY_SECONDS", 0.05)
    answer = walk.ask("Save me", ignore_eos=True)["messages"][0]
    assert len(failures) >= 3
    assert answer["state"] == "complete"
    assert len(server.services.store.generations.get(answer["generation_id"]).token_ids) == 12
