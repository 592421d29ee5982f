"""T83: batches through the official SDK, with bad lines and across a kill -9."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.conformance.conftest import ServerProcess

ENDPOINT: Any = "/v1/chat/completions"
BAD: dict[int, dict[str, Any]] = {7: {"temperature": 9}, 50: {"model": "nobody"}, 99: {"messages": []}}


def begin(client: openai.OpenAI, count: int, tokens: int) -> Any:
    lines = []
    for i in range(count):
        body = {"model": "chat", "messages": [{"role": "user", "content": f"Say {i}."}], "max_tokens": tokens}
        lines.append({"custom_id": f"line-{i}", "method": "POST", "url": ENDPOINT, "body": body | BAD.get(i, {})})
    text = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", text), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")


def ended(client: openai.OpenAI, id: str) -> Any:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.2)
    pytest.fail(f"the batch did not end: {batch}")


def counted(client: openai.OpenAI, id: str) -> Any:
    return client.batches.retrieve(id).request_counts


def rows(client: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


@pytest.mark.conformance("T83", slow=True)
def test_a_hundred_lines_three_of_them_bad(strict_client: openai.OpenAI) -> None:
    done = ended(strict_client, begin(strict_client, 100, 2).id)
    assert done.status == "completed"
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (100, 97, 3)
    assert [row["custom_id"] for row in rows(strict_client, done.error_file_id)] == ["line-7", "line-50", "line-99"]
    good = rows(strict_client, done.output_file_id)
    assert len({row["custom_id"] for row in good}) == len(good) == 97
    assert all(row["response"]["body"]["choices"][0]["message"]["role"] == "assistant" for row in good)


@pytest.mark.conformance("T83", slow=True)
def test_a_killed_server_goes_on_and_no_line_is_there_twice(own_server: Callable[..., ServerProcess]) -> None:
    server = own_server()
    id = begin(server.client(), 60, 24).id
    while (counts := counted(server.client(), id)).completed < 5:
        time.sleep(0.05)
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    server.start()
    client = server.client()
    assert counts.completed <= counted(client, id).completed < 58
    done = ended(client, id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 58, 2)
    names = [row["custom_id"] for row in rows(client, done.output_file_id) + rows(client, done.error_file_id)]
    assert sorted(names) == sorted(f"line-{i}" for i in range(60))
