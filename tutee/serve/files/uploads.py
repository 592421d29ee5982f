"""/v1/uploads: a large file in parts of up to 64 MiB, 8 GiB in all, within an hour; then it is a file like others."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.serve.access.auth import MEMBER, CallerDep, owned
from tutee.serve.body import Body
from tutee.serve.edge import PART_LIMIT
from tutee.serve.files.routes import file_part, file_view, read_lifetime, read_purpose, require_multipart
from tutee.serve.replies import reply
from tutee.serve.services import ServicesDep
from tutee.store.schema import File, Upload
from tutee.store.uploads import status_of

router = APIRouter(prefix="/v1/uploads")

UPLOAD_BYTES = 8 * 1024**3
MOST_PARTS = 10_000
LONGEST_NAME = 512


@router.post("", openapi_extra=MEMBER)
def create(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Announce a file."""
    filename = body.need_string("filename", most=LONGEST_NAME)
    mime_type = body.need_string("mime_type", most=LONGEST_NAME)
    purpose = read_purpose(body)
    body.need("bytes")
    size = body.integer("bytes", 1, UPLOAD_BYTES)
    assert size is not None
    lifetime = read_lifetime(body)
    body.close()
    row = services.store.uploads.add(caller.id, filename, purpose, mime_type, size, lifetime)
    return reply(upload_view(row))


@router.post("/{id}/parts", openapi_extra=owned("upload"))
async def add_part(id: str, request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """Send one part; parts may come at the same time and in any order."""
    services.store.uploads.get(id, caller.id)
    require_multipart(request)
    async with request.form(max_files=1, max_fields=4) as form:
        data = file_part(form, "data").file
        part = await run_in_threadpool(services.store.uploads.add_part, id, caller.id, data, PART_LIMIT)
    return reply(
        {"id": part.id, "object": "upload.part", "created_at": int(part.created_at), "upload_id": part.upload_id}
    )


@router.post("/{id}/complete", openapi_extra=owned("upload"))
def complete(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Put the parts together in the given order; the reply holds the file."""
    services.store.uploads.get(id, caller.id)
    body.need("part_ids")
    part_ids = body.strings("part_ids", most=MOST_PARTS, longest=LONGEST_NAME) or []
    md5 = body.string("md5")
    body.close()
    return reply(upload_view(*services.store.uploads.complete(id, caller.id, part_ids, md5)))


@router.post("/{id}/cancel", openapi_extra=owned("upload"))
def cancel(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Give it up."""
    return reply(upload_view(services.store.uploads.cancel(id, caller.id)))


def upload_view(row: Upload, file: File | None = None) -> dict[str, Any]:
    """OpenAI's upload object."""
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": status_of(row),
        "file": None if file is None else file_view(file),
    }
