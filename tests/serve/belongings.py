"""One of each thing that can belong to somebody, and how to ask a route for it: for tests of who may see what."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from fastapi.routing import APIRoute

from tests.serve.conftest import Walk

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


def belongings_of(http: httpx.Client, sdk: openai.OpenAI) -> Belongings:
    """Make one of each as the person whom both clients speak for; the model is called `tiny`."""
    walk = Walk(http)
    answer = walk.ask("private matter")["messages"][0]
    thumb = walk.call("POST", "/feedback", {"kind": "thumb", "message_id": answer["id"], "value": 1})
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
    return Belongings(ids, answer["parent_id"], {"{run_id}": run.id, "{item_id}": items[0].id, "{item}": str(item.id)})


def request(http: httpx.Client, method: str, route: APIRoute, id: str, mine: Belongings) -> httpx.Response:
    """Ask a route for the thing called `id`; what else its path or body needs is taken from `mine`."""
    path = route.path.replace("{id}", id).replace("{name}", id)
    for name, inner in mine.inner.items():
        path = path.replace(name, inner)
    assert "{" not in path, f"this test does not know how to fill in {route.path}"
    body = BODIES.get(f"{method} {route.path}")
    if body is not None:
        body = {key: mine.message if value == "MESSAGE" else value for key, value in body.items()}
    return http.request(method, path, json=body)
