"""Batches: files that are refused, lines that fail alone, cancelling, expiry, and never a line twice."""

from __future__ import annotations

import asyncio
import codecs
import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serve.conftest import Running, serving
from tutee.engine.engine import Engine
from tutee.ids import new_id
from tutee.serve.batches.file import check, requests
from tutee.serve.batches.runner import BatchRunner
from tutee.settings import Settings
from tutee.store.files import BATCH_ENDED
from tutee.store.schema import Batch

ENDPOINT = "/v1/chat/completions"


def line(i: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "chat", "messages": [{"role": "user", "content": f"Number {i}"}], "max_tokens": 3}
    return {"custom_id": f"line-{i}", "method": "POST", "url": ENDPOINT, "body": body | changes}


def begin(sdk: openai.OpenAI, lines: list[Any], **fields: Any) -> Any:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    file = sdk.files.create(file=("requests.jsonl", text.encode()), purpose="batch")
    asked = {"endpoint": ENDPOINT, "completion_window": "24h", "input_file_id": file.id, **fields}
    return sdk.batches.create(**asked)


def ended(sdk: openai.OpenAI, id: str, seconds: float = 300.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        batch = sdk.batches.retrieve(id)
        if batch.status in BATCH_ENDED:
            return batch
        time.sleep(0.1)
    pytest.fail(f"the batch is still {batch.status}: {batch.request_counts}")


def counted(sdk: openai.OpenAI, id: str) -> int:
    counts = sdk.batches.retrieve(id).request_counts
    assert counts is not None
    return counts.completed


def rows(sdk: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [] if file_id is None else [json.loads(row) for row in sdk.files.content(file_id).text.splitlines()]


def test_good_lines_and_bad_ones(sdk: openai.OpenAI) -> None:
    asked = [
        *(line(i) for i in range(12)),
        "",
        line(12, temperature=9),
        line(13, stream=True),
        line(14, model="nobody"),
    ]
    begun = begin(sdk, asked, metadata={"kind": "test"}, output_expires_after={"anchor": "created_at", "seconds": 7200})
    assert begun.status == "validating"
    done = ended(sdk, begun.id)
    assert done.status == "completed"
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (15, 12, 3)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    assert (done.metadata, done.model) == ({"kind": "test"}, None)

    good = rows(sdk, done.output_file_id)
    assert [row["custom_id"] for row in good] == [f"line-{i}" for i in range(12)]
    for row in good:
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        assert row["response"]["request_id"].startswith("req_")
        assert row["response"]["body"]["object"] == "chat.completion"
    assert done.usage.input_tokens == sum(row["response"]["body"]["usage"]["prompt_tokens"] for row in good)
    bad = rows(sdk, done.error_file_id)
    assert [(row["custom_id"], row["response"]["status_code"]) for row in bad] == [
        ("line-12", 400),
        ("line-13", 400),
        ("line-14", 404),
    ]
    assert [row["response"]["body"]["error"]["param"] for row in bad] == ["temperature", "stream", "model"]
    output = sdk.files.retrieve(done.output_file_id)
    assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 7200)
    assert begun.id in [row.id for row in sdk.batches.list(limit=1)]


@pytest.mark.parametrize(
    ("lines", "number", "code"),
    [
        (["{"], 1, "invalid_json_line"),
        ([line(1), "[]"], 2, "invalid_json_line"),
        ([line(1), "", line(1)], 3, "duplicate_custom_id"),
        ([line(1) | {"url": "/v1/embeddings"}], 1, "mismatched_endpoint"),
        ([line(1) | {"method": "GET"}], 1, "invalid_method"),
        ([line(1) | {"body": "text"}], 1, "invalid_type"),
        ([{"custom_id": "a"}], 1, "missing_required_parameter"),
        (["", " "], None, "empty_file"),
        (["[" * 100_000], 1, "invalid_json_line"),
    ],
)
def test_a_file_that_is_no_list_of_requests_fails_the_batch(
    sdk: openai.OpenAI, lines: list[Any], number: int | None, code: str
) -> None:
    done = ended(sdk, begin(sdk, lines).id)
    assert done.status == "failed"
    [error] = done.errors.data
    assert (error.line, error.code) == (number, code)
    assert done.output_file_id is None
    assert done.error_file_id is None


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_file_from_another_system_is_read(tmp_path: Path, end: str) -> None:
    lines = [{"custom_id": id, "method": "POST", "url": "/v1/completions", "body": {"prompt": "é"}} for id in "ab"]
    path = tmp_path / "input.jsonl"
    text = (end or "\n").join(json.dumps(line, ensure_ascii=False) for line in lines) + end
    path.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert check(path, "/v1/completions").total == 2
    assert [each.custom_id for each in requests(path, "/v1/completions")] == ["a", "b"]


def test_bad_requests_for_a_batch_name_the_field(sdk: openai.OpenAI) -> None:
    wrong = sdk.files.create(file=("a", b"{}"), purpose="fine-tune").id
    for changes, param in (
        ({"input_file_id": "file-missing"}, "input_file_id"),
        ({"input_file_id": wrong}, "input_file_id"),
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            begin(sdk, [line(1)], **changes)
        assert refused.value.param == param


def test_other_endpoints_are_asked_the_same_way(sdk: openai.OpenAI) -> None:
    body = {"model": "chat", "prompt": "Once", "max_tokens": 2}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    done = ended(sdk, begin(sdk, [request], endpoint="/v1/completions").id)
    assert rows(sdk, done.output_file_id)[0]["response"]["body"]["object"] == "text_completion"


def test_lines_wait_behind_people(sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    priorities: dict[str, int] = {}
    submit = Engine.submit

    def noting(self: Engine, *arguments: Any, **named: Any) -> Any:
        priorities[named["owner"]] = max(named["priority"], priorities.get(named["owner"], 0))
        return submit(self, *arguments, **named)

    monkeypatch.setattr(Engine, "submit", noting)
    sdk.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=1)
    assert set(priorities.values()) == {0}
    ended(sdk, begin(sdk, [line(1)]).id)
    assert set(priorities.values()) == {10}


def test_a_cancelled_batch_keeps_what_was_done_and_cannot_be_cancelled_twice(sdk: openai.OpenAI) -> None:
    many = [line(i, max_tokens=200, ignore_eos=True) for i in range(300)]
    begun = begin(sdk, many)
    while counted(sdk, begun.id) == 0:
        time.sleep(0.05)
    assert sdk.batches.cancel(begun.id).status == "cancelling"
    done = ended(sdk, begun.id)
    assert done.status == "cancelled"
    assert 0 < done.request_counts.completed < 300
    assert len(rows(sdk, done.output_file_id)) == done.request_counts.completed
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.batches.cancel(begun.id)
    assert refused.value.code == "batch_ended"


def test_an_answer_that_is_being_recorded_when_the_batch_is_cancelled_is_in_its_file(
    make_home: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(make_home()) as running:
        batches, recording = running.services.store.batches, threading.Event()
        record = batches.record

        def slowly(*arguments: Any) -> None:
            recording.set()
            time.sleep(3)  # longer than the runner takes to see that it is to stop
            record(*arguments)

        monkeypatch.setattr(batches, "record", slowly)
        begun = begin(running.sdk(), [line(i) for i in range(50)])
        assert recording.wait(300)
        running.sdk().batches.cancel(begun.id)
        done = ended(running.sdk(), begun.id)
        assert done.request_counts.completed > 0
        time.sleep(4)  # nobody records afterwards
        after = running.sdk().batches.retrieve(begun.id)
        assert len(rows(running.sdk(), done.output_file_id)) == after.request_counts.completed


def test_the_input_of_a_batch_that_runs_cannot_be_deleted(sdk: openai.OpenAI) -> None:
    begun = begin(sdk, [line(i, max_tokens=200, ignore_eos=True) for i in range(100)])
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.files.delete(begun.input_file_id)
    assert refused.value.code == "file_in_use"
    sdk.batches.cancel(begun.id)
    ended(sdk, begun.id)
    assert sdk.files.delete(begun.input_file_id).deleted


def test_lines_that_were_not_reached_in_time_say_so(server: Running, sdk: openai.OpenAI) -> None:
    store = server.services.store
    text = "\n".join(json.dumps(line(i)) for i in range(2)).encode()
    owner = store.actors.get_or_create("owner").id
    file = store.files.add(text, "late.jsonl", "batch", owner)
    batch = Batch(
        id=new_id("batch"), actor_id=owner, endpoint=ENDPOINT, input_file_id=file.id, completion_window="24h",
        status="in_progress", errors=[], metadata_={}, total=2, completed=0, failed=0, output_file_id=new_id("file"),
        error_file_id=new_id("file"), moments={}, created_at=time.time() - 90_000, expires_at=time.time() - 1,
    )  # fmt: skip
    with store.database.write() as session:
        session.add(batch)
    done = ended(sdk, batch.id)
    assert done.status == "expired"
    assert [row["error"]["code"] for row in rows(sdk, done.error_file_id)] == ["batch_expired"] * 2
    assert done.output_file_id is None


def test_a_server_that_starts_again_goes_on_and_does_no_line_twice(make_home: Callable[..., Settings]) -> None:
    settings, asked, ask = make_home(), itertools.count(), BatchRunner._ask

    async def lost_after_five(*arguments: Any) -> Any:
        answer = await ask(*arguments)
        if next(asked) >= 5:
            await asyncio.Event().wait()  # the server ends before this is recorded
        return answer

    with pytest.MonkeyPatch.context() as patch, serving(settings) as running:
        patch.setattr(BatchRunner, "_ask", staticmethod(lost_after_five))
        sdk = running.sdk()
        begun = begin(sdk, [line(i) for i in range(30)])
        while counted(sdk, begun.id) < 5:
            time.sleep(0.02)
    with serving(settings) as running:
        sdk = running.sdk()
        done = ended(sdk, begun.id)
        assert (done.status, done.request_counts.completed) == ("completed", 30)
        assert [row["custom_id"] for row in rows(sdk, done.output_file_id)] == [f"line-{i}" for i in range(30)]


def test_finishing_again_after_a_crash_makes_no_second_file(server: Running, sdk: openai.OpenAI) -> None:
    """Killed between the file and the batch's last word: it is finalizing still, and its file is there."""
    store = server.services.store
    owner = store.actors.get_or_create("crashed").id
    batch = store.batches.add(owner, ENDPOINT, "file-x")
    with store.database.write() as session:
        session.get(Batch, batch.id).status = "cancelling"  # type: ignore[union-attr]
    store.batches.record(batch.id, 0, True, {"custom_id": "a"}, (1, 1))
    store.batches.record(batch.id, 0, True, {"custom_id": "twice"}, (1, 1))
    store.files.add(b'{"custom_id":"a"}\n', "x", "batch_output", owner, id=batch.output_file_id)
    store.batches.finish(batch.id, "cancelled")
    [file] = store.files.list(owner)
    assert file.id == store.batches.get(batch.id).output_file_id
    assert store.files.open(file.id).read() == b'{"custom_id":"a"}\n'
    assert store.batches.get(batch.id).completed == 1
