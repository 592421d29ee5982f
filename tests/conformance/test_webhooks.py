"""T84: a real event of a real batch, believed by the official SDK; a tampered one is not."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

Delivery = tuple[dict[str, str], bytes]


@pytest.fixture
def listener() -> Iterator[tuple[str, queue.Queue[Delivery]]]:
    """A URL, and what is posted to it."""
    came: queue.Queue[Delivery] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.put((dict(self.headers.items()), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", came
        server.shutdown()


@pytest.mark.conformance("T84")
def test_a_delivery_verifies_and_a_tampered_one_does_not(
    strict_client: openai.OpenAI, listener: tuple[str, queue.Queue[Delivery]]
) -> None:
    url, came = listener
    endpoint = strict_client.webhooks.create(name="batches", url=url, event_types=["batch.completed"])
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = strict_client.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = strict_client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    headers, payload = came.get(timeout=120)
    event = strict_client.webhooks.unwrap(payload, headers, secret=endpoint.signing_secret)
    assert (event.type, event.data.id) == ("batch.completed", batch.id)  # type: ignore[union-attr]
    for tampered in (payload.replace(b"completed", b"cancelled"), payload + b" "):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            strict_client.webhooks.unwrap(tampered, headers, secret=endpoint.signing_secret)
    old = {**headers, "webhook-timestamp": "1700000000"}
    with pytest.raises(openai.InvalidWebhookSignatureError):
        strict_client.webhooks.unwrap(payload, old, secret=endpoint.signing_secret)
    strict_client.webhooks.delete(endpoint.id)
