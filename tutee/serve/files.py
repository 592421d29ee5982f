"""/v1/files: upload (multipart), list, retrieve, download, delete. A file belongs to who uploaded it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, Response

from tutee.errors import InvalidInput, NotFound
from tutee.serve.auth import MEMBER, Caller, CallerDep, owned
from tutee.serve.edge import UPLOAD_LIMIT
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.store.schema import File

router = APIRouter(prefix="/v1/files")

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
RESULT_PURPOSE = "fine-tune-results"
MOST_FILES = 10_000
PAGE = 1000
"""Files in one reply, whatever limit was asked for; `has_more` brings the client back."""


@router.post("", openapi_extra=MEMBER)
async def create(request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """Upload one file; it is written to disk as it arrives."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidInput("Send the file as multipart/form-data.", code="invalid_content_type")
    async with request.form(max_files=1, max_fields=16) as form:
        purpose, upload = form.get("purpose"), form.get("file")
        for name, value in (("file", upload), ("purpose", purpose)):
            if value is None:
                raise InvalidInput(f"'{name}' is missing.", param=name, code="missing_required_parameter")
        if purpose not in PURPOSES:
            message = f"'purpose' is {purpose!r}; it must be one of {', '.join(PURPOSES)}."
            raise InvalidInput(message, param="purpose", code="invalid_value")
        if any(name.startswith("expires_after") for name in form):
            message = "'expires_after' is not supported: files stay until they are deleted."
            raise InvalidInput(message, param="expires_after", code="unsupported_parameter")
        if not isinstance(upload, UploadFile):
            raise InvalidInput("'file' must be a file part, with a filename.", param="file", code="invalid_type")
        row = await run_in_threadpool(_save, services, caller, upload, str(purpose))
    return reply(file_view(row))


def _save(services: Services, caller: Caller, upload: UploadFile, purpose: str) -> File:
    return services.store.files.add(
        upload.file, upload.filename or "upload", purpose, caller.id, max_bytes=UPLOAD_LIMIT
    )


@router.get("", openapi_extra=MEMBER)
def list_files(
    caller: CallerDep,
    services: ServicesDep,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_FILES)] = MOST_FILES,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """The caller's files."""
    page = services.store.files.list(caller.id, purpose=purpose, limit=min(limit, PAGE), after=after, order=order)
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
    return FileResponse(path, media_type="application/octet-stream", headers={"content-disposition": disposition})


@router.delete("/{id}", openapi_extra=owned("file"))
def delete(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Delete a file that no unfinished job needs."""
    services.store.files.get(id, caller.id)
    running = [job for job in services.store.jobs.list(limit=100) if job.status in ("queued", "running", "paused")]
    if any(id in (job.training_file, job.validation_file) for job in running):
        raise InvalidInput(f"'{id}' is used by a job that has not ended.", param="id", code="file_in_use")
    services.store.files.delete(id, caller.id)
    return reply({"id": id, "object": "file", "deleted": True})


def file_view(row: File) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    }
