"""/v1/files: upload (multipart), list, retrieve, download, delete. A file belongs to who uploaded it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from tutee.data.taken_back import forget_taken_back
from tutee.errors import InvalidInput, NotFound
from tutee.serve.access.auth import MEMBER, CallerDep, owned
from tutee.serve.body import Fields
from tutee.serve.edge import UPLOAD_LIMIT
from tutee.serve.paging import Order
from tutee.serve.replies import page_of, reply
from tutee.serve.services import ServicesDep
from tutee.store.files import MOST_LISTED
from tutee.store.schema import File

router = APIRouter(prefix="/v1/files")

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
LIFETIME = (3600, 2_592_000)
"""Least and most seconds after which a file may expire: an hour, 30 days."""
WHOLE = re.compile(r"-?[0-9]{1,18}")


@router.post("", openapi_extra=MEMBER)
async def create(request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """Upload one file; it is written to disk as it arrives."""
    require_multipart(request)
    async with request.form(max_files=1, max_fields=16) as form:
        upload = file_part(form, "file")
        fields = Fields(nested(form, "file"))
        fields.strict = services.settings.strict
        request.state.fields = fields
        purpose = read_purpose(fields)
        lifetime = read_lifetime(fields)
        fields.close()
        row = await run_in_threadpool(
            services.store.files.add,
            upload.file,
            upload.filename or "upload",
            purpose,
            caller.id,
            UPLOAD_LIMIT,
            lifetime=lifetime,
        )
    return reply(file_view(row))


def require_multipart(request: Request) -> None:
    """Raises InvalidInput for a body of any other kind."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidInput("Send the file as multipart/form-data.", code="invalid_content_type")


def file_part(form: FormData, name: str) -> UploadFile:
    """The file under `name`. Raises InvalidInput when there is none, text instead, or a NUL in the form's texts."""
    for key, value in form.multi_items():
        if "\0" in key or "\0" in ((value.filename or "") if isinstance(value, UploadFile) else value):
            raise InvalidInput(f"{key!r} holds a NUL character, which text may not contain.", code="invalid_value")
    part = form.get(name)
    if part is None:
        raise InvalidInput(f"'{name}' is missing.", param=name, code="missing_required_parameter")
    if not isinstance(part, UploadFile):
        raise InvalidInput(f"'{name}' must be a file part, with a filename.", param=name, code="invalid_type")
    return part


def nested(form: FormData, *files: str) -> dict[str, Any]:
    """The text fields of a form, `a[b]=c` as `{"a": {"b": "c"}}`, and what looks like a whole number as one inside."""
    found: dict[str, Any] = {}
    for name, value in form.items():
        if name in files or isinstance(value, UploadFile):
            continue
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]"):
            group = found.setdefault(outer, {})
            if isinstance(group, dict):
                group[inner[:-1]] = int(value) if WHOLE.fullmatch(value) else value
        else:
            found[name] = value
    return found


def read_purpose(fields: Fields) -> str:
    """What the file is for."""
    fields.need("purpose")
    purpose = fields.choice("purpose", PURPOSES)
    assert purpose is not None
    return purpose


def read_lifetime(fields: Fields, name: str = "expires_after") -> int | None:
    """`expires_after` as seconds; None when it is absent."""
    given = fields.object(name)
    if given is None:
        return None
    for needed in ("anchor", "seconds"):
        given.need(needed)
    given.choice("anchor", ("created_at",))
    return given.integer("seconds", *LIFETIME)


@router.get("", openapi_extra=MEMBER)
def list_files(
    caller: CallerDep,
    services: ServicesDep,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    after: str | None = None,
    order: Order = "desc",
) -> Response:
    """The caller's files."""
    page = services.store.files.list(caller.id, purpose=purpose, limit=limit, after=after, order=order)
    return page_of([file_view(row) for row in page], page.has_more)


@router.get("/{id}", openapi_extra=owned("file"))
def retrieve(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """What is known of a file."""
    return reply(file_view(services.store.files.get(id, caller.id)))


@router.get("/{id}/content", openapi_extra=owned("file"))
def content(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """The bytes, always as a download: nothing that was uploaded is ever shown as part of the page."""
    row = services.store.files.get(id, caller.id)
    path = services.store.files.path(id)
    if not path.is_file():
        raise NotFound(f"The content of '{id}' is missing on disk.")
    disposition = f"attachment; filename*=UTF-8''{quote(row.filename, safe='')}"
    return Download(path, media_type="application/octet-stream", headers={"content-disposition": disposition})


class Download(FileResponse):
    """A file, or a part of it (`Range`); a part that cannot be had is an error like others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises InvalidInput: a Range that says nothing. HTTPException: 416, one that lies outside of the file."""

        async def send_or_refuse(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 400:
                wanted = "'Range' must be bytes=FIRST-LAST, bytes=FIRST- or bytes=-LENGTH."
                raise InvalidInput(wanted, param="Range", code="invalid_range")
            if message["type"] == "http.response.start" and message["status"] == 416:
                there = Headers(raw=message["headers"])["content-range"]
                outside = f"'Range' lies outside of the file, which has {there.rpartition('/')[2]} bytes."
                raise HTTPException(416, outside, {"content-range": there})
            await send(message)

        await super().__call__(scope, receive, send_or_refuse)


@router.delete("/{id}", openapi_extra=owned("file"))
def delete(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Delete a file that no unfinished job or batch needs."""
    services.store.files.get(id, caller.id)
    if services.store.files.in_use(id):
        raise InvalidInput(f"'{id}' is used by a job or a batch that has not ended.", param="id", code="file_in_use")
    services.store.files.delete(id, caller.id)
    forget_taken_back(services.store)
    return reply({"id": id, "object": "file", "deleted": True})


def file_view(row: File) -> Mapping[str, Any]:
    """OpenAI's file object."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "expires_at": None if row.expires_at is None else int(row.expires_at),
        "status_details": None,
    }
