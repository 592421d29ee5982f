"""Files through the official client in strict mode, and bad uploads."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from tests.serve.conftest import Running
from tutee.ids import new_id
from tutee.store.schema import File

LINES = b'{"messages": [{"role": "user", "content": "\xc3\xbc"}]}\n' * 3


def test_upload_read_back_list_and_delete(sdk: openai.OpenAI) -> None:
    made = sdk.files.create(file=("rows.jsonl", LINES), purpose="fine-tune")
    assert (made.filename, made.bytes, made.status) == ("rows.jsonl", len(LINES), "processed")
    assert sdk.files.retrieve(made.id) == made
    assert sdk.files.content(made.id).read() == LINES
    assert made.id in [row.id for row in sdk.files.list(purpose="fine-tune")]
    assert made.id not in [row.id for row in sdk.files.list(purpose="vision")]
    assert sdk.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(made.id)


def test_content_is_a_download_whatever_it_is_called(sdk: openai.OpenAI, http: httpx.Client) -> None:
    made = sdk.files.create(file=('x".html\r\nSet-Cookie: a=b', b"<script>alert(1)</script>"), purpose="user_data")
    reply = http.get(f"/v1/files/{made.id}/content")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")
    assert "set-cookie" not in reply.headers


def test_a_part_of_a_file_and_parts_that_cannot_be_had(sdk: openai.OpenAI, http: httpx.Client) -> None:
    made = sdk.files.create(file=("digits", b"0123456789"), purpose="user_data")
    for wanted, part in (("bytes=2-4", b"234"), ("bytes=-3", b"789"), ("bytes=7-", b"789")):
        reply = http.get(f"/v1/files/{made.id}/content", headers={"range": wanted})
        assert (reply.status_code, reply.content) == (206, part)
    for wanted in ("x", "bytes=", "bytes=a-b", "lines=1-2", "bytes=5-2", f"bytes={'9' * 5000}-"):
        reply = http.get(f"/v1/files/{made.id}/content", headers={"range": wanted})
        error = reply.json()["error"]
        assert (reply.status_code, error["type"]) == (400, "invalid_request_error"), wanted
        assert (error["param"], error["code"]) == ("Range", "invalid_range")
    reply = http.get(f"/v1/files/{made.id}/content", headers={"range": "bytes=10-"})
    assert (reply.status_code, reply.headers["content-range"]) == (416, "bytes */10")
    assert reply.json()["error"]["message"] == "'Range' lies outside of the file, which has 10 bytes."


def test_head_is_get_without_the_body(sdk: openai.OpenAI, http: httpx.Client) -> None:
    made = sdk.files.create(file=("digits", b"0123456789"), purpose="user_data")
    for path in ("/health", "/v1/models", f"/v1/files/{made.id}", f"/v1/files/{made.id}/content", "/v1/files/file-no"):
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        for name in ("content-type", "content-length"):
            assert head.headers.get(name) == whole.headers.get(name), path
    assert http.head("/v1/batches/x/cancel").status_code == http.get("/v1/batches/x/cancel").status_code
    assert http.get("/health").status_code == 200  # on the same connection


def test_the_same_bytes_twice_are_two_files(sdk: openai.OpenAI) -> None:
    first, second = (sdk.files.create(file=("a", LINES), purpose="fine-tune") for _ in range(2))
    sdk.files.delete(first.id)
    assert sdk.files.content(second.id).read() == LINES


def test_lists_page(server: Running) -> None:
    sdk = server.sdk(default_headers={"X-Tutee-Actor": "librarian"})
    made = [sdk.files.create(file=(f"{i}", b"x"), purpose="batch").id for i in range(3)]
    assert [row.id for row in sdk.files.list(purpose="batch", limit=2, order="asc")] == made


@pytest.mark.parametrize(
    ("data", "files", "param"),
    [
        ({"purpose": "fine-tune"}, None, "file"),
        ({}, {"file": ("a", b"x")}, "purpose"),
        ({"purpose": "x"}, {"file": ("a", b"x")}, "purpose"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
            {"file": ("a", b"x")},
            "expires_after.seconds",
        ),
        (
            {"purpose": "batch", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            {"file": ("a", b"x")},
            "expires_after.anchor",
        ),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at"},
            {"file": ("a", b"x")},
            "expires_after.seconds",
        ),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"},
            {"file": ("a", b"x")},
            "expires_after.seconds",
        ),
        *(
            (
                {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": seconds},
                {"file": ("a", b"x")},
                "expires_after.seconds",
            )
            for seconds in ("--5", "-", "9" * 5000)
        ),
    ],
)
def test_bad_uploads_name_the_field(http: httpx.Client, data: dict, files: dict | None, param: str) -> None:  # type: ignore[type-arg]
    reply = http.post("/v1/files", data=data, files=files or {"other": ("b", b"y")})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "place",
    [
        b'filename="a\0b"',
        b'filename="a"; name="fi\0le"',
        b'filename="a"\r\n\r\nx\r\n--X\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\0',
    ],
)
def test_a_nul_in_a_form_is_refused(http: httpx.Client, place: bytes) -> None:
    body = b'--X\r\nContent-Disposition: form-data; name="file"; ' + place + b"\r\n\r\nx\r\n--X--\r\n"
    reply = http.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=X"})
    assert reply.status_code == 400
    assert "NUL" in reply.json()["error"]["message"]


def test_a_file_is_gone_when_its_time_is_over(
    server: Running, sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = {"anchor": "created_at", "seconds": 3600}
    made = sdk.files.create(file=("a", b"not for ever"), purpose="user_data", expires_after=after)  # type: ignore[arg-type]
    assert made.expires_at == made.created_at + 3600
    assert sdk.files.content(made.id).read() == b"not for ever"
    place = server.services.store.files.path(made.id)
    later = time.time() + 3601
    monkeypatch.setattr("tutee.store.files.now", lambda: later)
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(made.id)
    assert made.id not in [row.id for row in sdk.files.list(purpose="user_data")]
    assert place.is_file()
    assert server.services.store.files.sweep() == 1
    assert not place.exists()


def test_more_than_a_thousand_files_are_one_page(server: Running) -> None:
    files = server.services.store.files
    actor = server.services.store.actors.get_or_create("hoarder")
    with server.services.store.database.write() as session:
        session.add_all(
            File(id=new_id("file"), actor_id=actor.id, sha256="0" * 64, bytes=1, filename="x", purpose="vision")
            for _ in range(1001)
        )
    assert len(files.list(actor.id, limit=10_000)) == 1001
    with server.http("hoarder") as http:
        assert len(http.get("/v1/files").json()["data"]) == 1001
        assert http.get("/v1/files", params={"limit": 10_001}).json()["error"]["param"] == "limit"


def test_a_body_that_is_no_form_is_refused(http: httpx.Client) -> None:
    assert http.post("/v1/files", json={"purpose": "x"}).json()["error"]["code"] == "invalid_content_type"
    broken = http.post("/v1/files", content=b"--x\r\nbad", headers={"content-type": "multipart/form-data; boundary=x"})
    assert broken.status_code == 400
    assert set(broken.json()["error"]) == {"message", "type", "param", "code"}


def test_another_person_cannot_reach_a_file(server: Running, sdk: openai.OpenAI) -> None:
    made = sdk.files.create(file=("mine", b"secret"), purpose="user_data")
    stranger = server.sdk(default_headers={"X-Tutee-Actor": "stranger"})
    for call in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    assert sdk.files.content(made.id).read() == b"secret"
