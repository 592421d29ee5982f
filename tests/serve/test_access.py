"""Every route declares who may use it, and keeps strangers out: generated from the route table itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.serve.conftest import Running, Walk
from tutee.serve.app import build_app, routes
from tutee.serve.auth import RULE

TABLE = [(method, route) for route in routes() for method in sorted(route.methods)]


def rule_of(route: APIRoute) -> str:
    return str((route.openapi_extra or {}).get(RULE, ""))


OWNED = [(method, route) for method, route in TABLE if rule_of(route).startswith("owner:")]
NAMES = [f"{method} {route.path}" for method, route in OWNED]

EVAL_ROWS = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"x": "a"}}]}}
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/tutee/conversations/{id}/messages": {"content": "intruder", "parent_id": None},
    "PATCH /v1/tutee/conversations/{id}": {"title": "intruder"},
    "POST /v1/tutee/conversations/{id}/generate": {"parent_id": "MESSAGE"},
    "POST /v1/chat/completions/{id}": {"metadata": {"intruder": "1"}},
    "POST /v1/conversations/{id}": {"metadata": {"intruder": "1"}},
    "POST /v1/conversations/{id}/items": {"items": [{"role": "user", "content": "intruder"}]},
    "POST /v1/evals/{id}": {"name": "intruder"},
    "POST /v1/evals/{id}/runs": {"data_source": EVAL_ROWS},
}


@dataclass
class Belongings:
    """One of each thing, all of one person."""

    ids: dict[str, str]
    message: str
    inner: dict[str, str]
    """Further placeholders of paths."""


@pytest.fixture(scope="module")
def mine(server: Running) -> Belongings:
    with server.http("victim") as http:
        walk = Walk(http)
        answer = walk.ask("private matter")["messages"][0]
        thumb = walk.call("POST", "/feedback", {"kind": "thumb", "message_id": answer["id"], "value": 1})
        sdk = server.sdk(default_headers={"X-Tutee-Actor": "victim"})
        file = sdk.files.create(file=("a.jsonl", b"x"), purpose="fine-tune")
        job = sdk.fine_tuning.jobs.create(model="tiny", training_file=file.id)
        kept = sdk.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "x"}], max_tokens=1, store=True
        )
        upload = sdk.uploads.create(filename="a", purpose="fine-tune", mime_type="text/jsonl", bytes=1)
        criterion = {"type": "string_check", "name": "is", "input": "{{item.x}}", "reference": "a", "operation": "eq"}
        config = {"type": "custom", "item_schema": {"type": "object"}}
        asked = sdk.evals.create(data_source_config=config, testing_criteria=[criterion])  # type: ignore[arg-type,list-item]
        run = sdk.evals.runs.create(asked.id, data_source=EVAL_ROWS)  # type: ignore[arg-type]
        while not (items := sdk.evals.runs.output_items.list(run.id, eval_id=asked.id).data):
            time.sleep(0.05)
        response = sdk.responses.create(model="chat", input="x", max_output_tokens=16)
        said = sdk.conversations.create(items=[{"type": "message", "role": "user", "content": "x"}])
        item = sdk.conversations.items.list(said.id).data[0]
        batch = sdk.batches.create(
            input_file_id=sdk.files.create(file=("b.jsonl", b"{}"), purpose="batch").id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
        hook = sdk.webhooks.create(name="x", url="http://127.0.0.1:1/", event_types=["batch.completed"])
        ids = {
            "batch": batch.id,
            "webhook": hook.id,
            "response": response.id,
            "openai_conversation": said.id,
            "eval": asked.id,
            "conversation": walk.conversation,
            "message": answer["id"],
            "feedback": thumb["id"],
            "file": file.id,
            "job": job.id,
            "completion": kept.id,
            "upload": upload.id,
        }
        return Belongings(
            ids, answer["parent_id"], {"{run_id}": run.id, "{item_id}": items[0].id, "{item}": str(item.id)}
        )


def request(http: httpx.Client, method: str, route: APIRoute, id: str, mine: Belongings) -> httpx.Response:
    path = route.path.replace("{id}", id).replace("{name}", id)
    for name, inner in mine.inner.items():
        path = path.replace(name, inner)
    assert "{" not in path, f"this test does not know how to fill in {route.path}"
    body = BODIES.get(f"{method} {route.path}")
    if body is not None:
        body = {key: mine.message if value == "MESSAGE" else value for key, value in body.items()}
    return http.request(method, path, json=body)


def test_every_route_declares_a_rule() -> None:
    for method, route in TABLE:
        rule = rule_of(route)
        known = rule in ("public", "member", "operator") or rule.startswith("owner:")
        assert known, f"{method} {route.path} declares no access rule (see tutee/serve/auth.py)"
        if "{id}" in route.path:
            assert rule.startswith("owner:"), f"{method} {route.path} takes an id but is not `owned`"


def test_nothing_is_served_beside_the_table(server: Running) -> None:
    app = build_app(server.services)
    assert {type(route).__name__ for route in app.app.routes} == {"_IncludedRouter"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "route"), OWNED, ids=NAMES)
def test_a_stranger_gets_404_as_if_it_were_missing(
    server: Running, mine: Belongings, method: str, route: APIRoute
) -> None:
    thing = rule_of(route).removeprefix("owner:")
    assert thing in mine.ids, f"give `mine` a {thing} so that {method} {route.path} is tested"
    id = mine.ids[thing]
    with server.http("stranger") as http:
        foreign = request(http, method, route, id, mine)
        missing = request(http, method, route, id[:-6] + "000000", mine)
    assert foreign.status_code == 404, foreign.text
    assert missing.status_code == 404, missing.text
    ours, theirs = (reply.json()["error"] for reply in (foreign, missing))
    assert (ours["type"], ours["code"], ours["param"]) == (theirs["type"], theirs["code"], theirs["param"])
    assert ours["message"].replace(id, "") == theirs["message"].replace(id[:-6] + "000000", "")


@pytest.mark.parametrize(("method", "route"), [x for x in OWNED if x[0] == "GET"])
def test_the_owner_gets_it(server: Running, mine: Belongings, method: str, route: APIRoute) -> None:
    with server.http("victim") as http:
        id = mine.ids[rule_of(route).removeprefix("owner:")]
        assert request(http, method, route, id, mine).status_code == 200


def test_lists_show_only_ones_own(server: Running, mine: Belongings) -> None:
    lists = [route.path for method, route in TABLE if method == "GET" and rule_of(route) == "member"]
    with server.http("stranger") as http:
        for path in lists:
            if "{" in path:
                continue
            reply = http.get(path)
            assert reply.status_code == 200, path
            if reply.headers["content-type"] == "application/json":
                for id in mine.ids.values():
                    assert id not in reply.text, f"{path} shows {id}"
