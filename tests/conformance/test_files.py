"""T69: files through the official SDK."""

from __future__ import annotations

import os
import time

import openai
import pytest


@pytest.mark.conformance("T69")
def test_a_file_comes_back_byte_for_byte(strict_client: openai.OpenAI) -> None:
    content = os.urandom(300_000)
    made = strict_client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    assert (made.bytes, made.filename, made.purpose) == (len(content), "rows.jsonl", "fine-tune")
    assert strict_client.files.content(made.id).read() == content
    assert made.id in [row.id for row in strict_client.files.list(purpose="fine-tune")]
    assert strict_client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        strict_client.files.content(made.id)


@pytest.mark.conformance("T69")
def test_purpose_and_expiry_are_checked(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as purpose:
        client.files.create(file=("a", b"x"), purpose="x")  # type: ignore[arg-type]
    assert purpose.value.param == "purpose"
    with pytest.raises(openai.BadRequestError) as soon:
        client.files.create(
            file=("a", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 60}
        )
    assert (soon.value.param, soon.value.code) == ("expires_after.seconds", "integer_below_min_value")
    made = client.files.create(
        file=("a", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600


@pytest.mark.conformance("T69")
def test_a_file_in_parts_is_a_file(strict_client: openai.OpenAI) -> None:
    content = os.urandom(100_000)
    done = strict_client.uploads.upload_file_chunked(
        file=content, filename="big", bytes=len(content), mime_type="text/plain", purpose="user_data", part_size=33_000
    )
    assert done.file is not None
    assert strict_client.files.content(done.file.id).read() == content


@pytest.mark.conformance("T69", slow=True)
def test_half_a_gigabyte_passes_through_without_being_held_in_memory(own_server, tmp_path) -> None:  # type: ignore[no-untyped-def]
    server, path = own_server(), tmp_path / "big"
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(512):
            file.write(piece)
    before = _resident(server.pid)
    client = server.client(timeout=600)
    with path.open("rb") as file:
        made = client.files.create(file=file, purpose="user_data")
    assert made.bytes == 512 << 20
    with client.files.with_streaming_response.content(made.id) as reply:
        assert sum(len(data) for data in reply.iter_bytes(1 << 20)) == 512 << 20
    time.sleep(0.1)
    assert _resident(server.pid) - before < 100 << 20
    with path.open("ab") as file:
        file.write(b"x")
    with path.open("rb") as file, pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=file, purpose="user_data")
    assert refused.value.status_code == 413


def _resident(pid: int) -> int:
    """The most memory that the process ever held, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
