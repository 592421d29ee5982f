"""A server of ours that asks another one: the whole product over an upstream, and what it says it cannot do.

The upstream is tutee itself, which speaks OpenAI's API and is always at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.serve.conftest import Running, Walk, serving
from tutee.settings import Settings, load_settings

SEEDED = {"seed": 4, "max_tokens": 12, "temperature": 1.0}
HELLO: Any = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory, server: Running) -> Iterator[Running]:
    """A server without a model of its own, over the shared one."""
    home = tmp_path_factory.mktemp("over")
    settings = Settings(home=home, threads=1, upstream=f"{server.url}/v1", upstream_model="tiny")
    with serving(settings) as running:
        yield running


@pytest.fixture
def people(over: Running) -> Iterator[Walk]:
    with over.http() as http:
        yield Walk(http)


def test_completions_are_the_upstreams(server: Running, over: Running) -> None:
    theirs = server.strict().chat.completions.create(model="tiny", messages=HELLO, **SEEDED)
    ours = over.strict().chat.completions.create(model="chat", messages=HELLO, **SEEDED)
    assert ours.choices[0].message.content == theirs.choices[0].message.content
    assert ours.choices[0].finish_reason == theirs.choices[0].finish_reason
    assert ours.system_fingerprint == "upstream:tiny"
    assert ours.usage is not None
    assert theirs.usage is not None
    assert ours.usage.model_dump() == theirs.usage.model_dump() | {
        "prompt_tokens_details": ours.usage.model_dump()["prompt_tokens_details"]
    }


def test_streams_and_several_choices(over: Running) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": HELLO, "n": 2, **SEEDED}
    whole = over.strict().chat.completions.create(**options)
    texts = ["", ""]
    for chunk in over.strict().chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"top_k": 3}, "top_k"),
        ({"min_p": 0.2}, "min_p"),
    ],
)
def test_what_needs_token_ids_is_refused_by_name(over: Running, changes: dict[str, Any], param: str) -> None:
    body = {"model": "chat", "messages": HELLO, **changes}
    error = over.http().post("/v1/chat/completions", json=body)
    assert error.status_code == 400
    assert error.json()["error"]["param"] == param
    assert error.json()["error"]["code"] == "upstream_cannot"


def test_a_refusal_of_the_upstream_is_passed_on(over: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        over.sdk().chat.completions.create(model="chat", messages=[{"role": "user", "content": "word " * 9000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


def test_a_conversation_with_feedback(over: Running, people: Walk) -> None:
    shown = people.ask("Which of two?", compare=True)
    first, second = shown["messages"]
    assert first["state"] == second["state"] == "complete"
    vote = people.call(
        "POST", "/feedback", {"kind": "compare", "presentation_id": shown["presentation_id"], "winner": "a"}
    )
    assert [entry["version"]["name"] for entry in vote["versions"]] == ["tiny", "tiny"]
    people.call("POST", "/feedback", {"kind": "thumb", "message_id": first["id"], "value": 1})
    store = over.services.store
    kept = store.generations.get(first["generation_id"])
    assert kept.weights_sha256 == "upstream:tiny"
    assert (kept.tokenizer_sha256, kept.template_sha256) == ("", "")
    assert np.array_equal(kept.prompt_ids, []) and np.array_equal(kept.token_ids, [])  # noqa: PT018
    assert kept.sampling["seed"] is not None
    assert kept.finish_reason in ("stop", "length")


def test_stopping_an_answer_stops_the_upstream(server: Running, people: Walk) -> None:
    shown = people.generate(people.say("Go on for long")["id"], max_tokens=3000, ignore_eos=None)
    people.call("POST", f"/messages/{shown['messages'][0]['id']}/stop")
    deadline = time.monotonic() + 60
    while server.services.live.base.engine.stats.running:
        assert time.monotonic() < deadline, "the upstream still works for nobody"
        time.sleep(0.02)


def test_nothing_is_trained_here(people: Walk, over: Running) -> None:
    preview = people.call("GET", "/improve")
    assert preview["ready"] is False
    assert "another server" in preview["advice"]
    error = people.call("POST", "/improve", {}, 400)["error"]
    assert (error["param"], error["code"]) == ("model", "upstream_cannot")
    with pytest.raises(openai.BadRequestError) as caught:
        over.sdk().fine_tuning.jobs.create(model="tiny", training_file="file-none")
    assert caught.value.code == "upstream_cannot"


def test_the_page_learns_what_answers(people: Walk, over: Running) -> None:
    me = people.call("GET", "/me")
    assert me["base"] == {"name": "tiny", "context_length": None}
    assert (me["live"]["kind"], me["live"]["weights_sha256"]) == ("upstream", "upstream:tiny")
    assert "tutee_engine_requests_total" in over.http().get("/metrics").text


def test_an_upstream_beside_a_model_of_ours_is_a_candidate(server: Running, make_home: Callable[..., Settings]) -> None:
    """Blind votes between ours and theirs reach the gate; a person may then promote it."""
    settings = make_home("both")
    with serving(settings) as alone:
        assert alone.services.live.chat.version.kind == "base"
    both = Settings(home=settings.home, threads=1, dtype="float32", upstream=f"{server.url}/v1", upstream_model="chat")
    with serving(both) as running, running.http() as http:
        live = running.services.live
        assert live.chat.version.name == "tiny"
        assert live.base.version.state == "candidate"
        walk = Walk(http)
        for _ in range(3):
            shown = walk.ask("Which?", compare=True)
            arms = [running.services.store.generations.get(m["generation_id"]).arm for m in shown["messages"]]
            winner = "ab"[arms.index("candidate")]
            body = {"kind": "compare", "presentation_id": shown["presentation_id"], "winner": winner, "dwell_ms": 4000}
            walk.call("POST", "/feedback", body)
        gate = walk.call("POST", f"/versions/{live.base.version.id}/gate")
        votes = next(check for check in gate["checks"] if check["name"] == "blind votes")
        assert votes["numbers"]["wins"] == 3
        walk.call("POST", f"/versions/{live.base.version.id}/promote", {"override": True, "reason": "It is bigger."})
        assert live.chat.version.kind == "upstream"


def test_without_its_upstream_a_server_says_so(tmp_path: Any) -> None:
    settings = Settings(home=tmp_path, threads=1, upstream="http://127.0.0.1:9/v1", upstream_model="gone")
    with serving(settings) as running:
        reply = running.http().post("/v1/chat/completions", json={"model": "chat", "messages": HELLO})
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "upstream_unreachable"


@pytest.mark.parametrize(
    ("environment", "param"),
    [
        ({"TUTEE_UPSTREAM": "http://h/v1"}, "TUTEE_UPSTREAM_MODEL"),
        ({"TUTEE_UPSTREAM_MODEL": "m"}, "TUTEE_UPSTREAM"),
        (
            {"TUTEE_UPSTREAM": "http://h/v1", "TUTEE_UPSTREAM_MODEL": "m", "TUTEE_UPSTREAM_KEY_ENV": "NO_SUCH_KEY"},
            "TUTEE_UPSTREAM_KEY_ENV",
        ),
    ],
)
def test_half_of_the_settings_is_an_error(environment: dict[str, str], param: str) -> None:
    with pytest.raises(Exception, match="TUTEE_UPSTREAM") as caught:
        load_settings(environment)
    assert getattr(caught.value, "param", None) == param


def test_a_key_goes_to_its_own_upstream_only(
    server: Running, make_home: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of an earlier upstream does not get the key of today's."""
    monkeypatch.setenv("THEIR_KEY", "secret")
    asked: list[tuple[str, str | None]] = []
    send = httpx.AsyncClient.send

    async def note(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        asked.append((request.url.host, request.headers.get("authorization")))
        return await send(client, request, **options)

    monkeypatch.setattr(httpx.AsyncClient, "send", note)
    port = server.url.rsplit(":", 1)[1]
    common: dict[str, Any] = {"home": make_home("keys").home, "threads": 1, "upstream_key_env": "THEIR_KEY"}
    first = Settings(upstream=f"http://127.0.0.1:{port}/v1", upstream_model="tiny", **common)
    with serving(first) as running:
        running.sdk().chat.completions.create(model="chat", messages=HELLO, max_tokens=2)
    assert {key for _, key in asked} == {"Bearer secret"}
    asked.clear()
    second = Settings(upstream=f"http://localhost:{port}/v1", upstream_model="chat", **common)
    with serving(second) as running:
        running.sdk().chat.completions.create(model="tiny", messages=HELLO, max_tokens=2)
    assert ("127.0.0.1", None) in asked
    assert ("127.0.0.1", "Bearer secret") not in asked


def test_responses_over_an_upstream(server: Running, over: Running) -> None:
    asked: dict[str, Any] = {"model": "tiny", "input": "Hello there", "max_output_tokens": 16, "temperature": 0}
    theirs, ours = (sdk.responses.create(**asked) for sdk in (server.strict(), over.strict()))
    assert ours.output_text == theirs.output_text
    assert ours.usage is not None
    assert ours.usage.input_tokens > 0
    assert over.strict().responses.create(**asked, previous_response_id=ours.id).output_text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/responses/input_tokens", {"input": "x"}),
        ("/v1/responses", {"input": "x", "top_logprobs": 2}),
        ("/tokenize", {"prompt": "x"}),
    ],
)
def test_what_lies_below_messages_is_refused(over: Running, path: str, body: dict[str, Any]) -> None:
    reply = over.http().post(path, json={"model": "chat"} | body)
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["code"], reply.json()["error"]["param"]) == ("upstream_cannot", "model")
