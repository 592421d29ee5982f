"""Files in parts: through the official client, and every way in which the parts can be wrong."""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import openai
import pytest

from tests.serve.conftest import Running

CONTENT = bytes(range(256)) * 40


def begin(sdk: openai.OpenAI, size: int = len(CONTENT), **fields: Any) -> Any:
    asked = {"filename": "rows.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl", "bytes": size, **fields}
    return sdk.uploads.create(**asked)


def send(sdk: openai.OpenAI, upload: str, data: bytes) -> str:
    return sdk.uploads.parts.create(upload, data=data).id


def test_the_clients_own_helper_makes_a_file(sdk: openai.OpenAI) -> None:
    done = sdk.uploads.upload_file_chunked(
        file=io.BytesIO(CONTENT).getvalue(),
        filename="rows.jsonl",
        bytes=len(CONTENT),
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=3000,
    )
    assert done.status == "completed"
    assert done.file is not None
    assert sdk.files.content(done.file.id).read() == CONTENT
    assert sdk.files.retrieve(done.file.id).filename == "rows.jsonl"


def test_the_order_is_that_of_completion(server: Running, sdk: openai.OpenAI) -> None:
    upload = begin(sdk, expires_after={"anchor": "created_at", "seconds": 7200})
    second, first = send(sdk, upload.id, CONTENT[5000:]), send(sdk, upload.id, CONTENT[:5000])
    assert upload.expires_at == upload.created_at + 3600
    done = sdk.uploads.complete(upload.id, part_ids=[first, second], md5=hashlib.md5(CONTENT).hexdigest())
    assert done.file is not None
    assert done.file.expires_at == done.file.created_at + 7200
    assert sdk.files.content(done.file.id).read() == CONTENT
    assert list((server.services.store.home / "uploads").glob(f"{upload.id}/*")) == []
    with pytest.raises(openai.BadRequestError, match="completed") as again:
        sdk.uploads.complete(upload.id, part_ids=[first, second])
    assert again.value.code == "upload_not_open"


def test_what_does_not_fit_is_refused_and_the_upload_stays_open(sdk: openai.OpenAI) -> None:
    upload = begin(sdk)
    part, other = send(sdk, upload.id, CONTENT), begin(sdk)
    foreign = send(sdk, other.id, CONTENT)
    for asked, param in (
        ({"part_ids": [foreign]}, "part_ids[0]"),
        ({"part_ids": [part, part]}, "part_ids[1]"),
        ({"part_ids": []}, "part_ids"),
        ({"part_ids": [part], "md5": "0" * 32}, "md5"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.uploads.complete(upload.id, **asked)
        assert refused.value.param == param
    with pytest.raises(openai.BadRequestError, match="announced"):
        send(sdk, upload.id, b"one byte too many"[:1])
    assert sdk.uploads.complete(upload.id, part_ids=[part]).status == "completed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"purpose": "x"}, "purpose"),
        ({"filename": ""}, "filename"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
    ],
)
def test_bad_announcements_name_the_field(sdk: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        begin(sdk, **fields)
    assert refused.value.param == param


def test_a_cancelled_or_late_upload_takes_nothing_more(
    server: Running, sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(sdk)
    send(sdk, upload.id, b"x")
    assert sdk.uploads.cancel(upload.id).status == "cancelled"
    assert not (server.services.store.home / "uploads" / upload.id).exists()
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        send(sdk, upload.id, b"x")

    late = begin(sdk)
    part = send(sdk, late.id, CONTENT)
    monkeypatch.setattr("tutee.store.uploads.now", lambda: time.time() + 3601)
    with pytest.raises(openai.BadRequestError, match="expired"):
        sdk.uploads.complete(late.id, part_ids=[part])
    assert server.services.store.uploads.sweep() >= 1
    assert not (server.services.store.home / "uploads" / late.id).exists()


def test_completing_again_after_a_crash_makes_no_second_file(server: Running, sdk: openai.OpenAI) -> None:
    """Killed between the file and the upload's last word: the upload is open still, and its file is there."""
    store = server.services.store
    upload = begin(sdk)
    part = send(sdk, upload.id, CONTENT)
    row = store.uploads.get(upload.id, store.actors.get_or_create("owner").id)
    store.files.add(CONTENT, row.filename, row.purpose, row.actor_id, id=row.file_id)
    before = len(sdk.files.list(purpose="fine-tune").data)
    assert sdk.uploads.complete(upload.id, part_ids=[part]).file.id == row.file_id  # type: ignore[union-attr]
    assert len(sdk.files.list(purpose="fine-tune").data) == before
