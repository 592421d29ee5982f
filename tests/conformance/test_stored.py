"""T82: feedback through the plain client, from a stored completion to a file of preferences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conformance.conftest import ServerProcess


@pytest.mark.conformance("T82")
def test_from_stored_completion_to_preferences(
    server: ServerProcess, client: openai.OpenAI, strict_client: openai.OpenAI, model: str, tmp_path: Path
) -> None:
    messages: list[Any] = [{"role": "user", "content": "Which way is the harbour, for test 82?"}]
    way = {"case": "T82"}
    better, worse = (
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=12, temperature=1, seed=seed, store=True, metadata=way
        )
        for seed in (1, 2)
    )
    correction = "Straight on, then left at the lighthouse."
    opinion = way | {"rating": "up", "preferred_over": worse.id}
    assert client.chat.completions.update(better.id, metadata=opinion).metadata == opinion
    client.chat.completions.update(worse.id, metadata=way | {"rating": "down", "correction": correction})
    found = list(strict_client.chat.completions.list(model=model, metadata=way | {"rating": "up"}))
    assert [row.id for row in found] == [better.id]
    with server.http() as http:
        chosen = {row["chosen"] for row in preferences(server, http, tmp_path)}
    assert {better.choices[0].message.content, correction} <= chosen
    for row in (better, worse):
        assert client.chat.completions.delete(row.id).deleted
    assert list(client.chat.completions.list(metadata=way)) == []


def preferences(server: ServerProcess, http: httpx.Client, folder: Path) -> list[dict[str, str]]:
    """What `tutee feedback export` writes of what its owner allows to be learned from."""
    http.put("/v1/tutee/consent", json={"train": True}).raise_for_status()
    path = folder / "preferences.jsonl"
    environment = os.environ | {"TUTEE_HOME": str(server.home)}
    command = [sys.executable, "-m", "tutee", "feedback", "export", str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    http.put("/v1/tutee/consent", json={"train": False}).raise_for_status()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"chosen": line["preferred_output"][0]["content"]} for line in lines]
