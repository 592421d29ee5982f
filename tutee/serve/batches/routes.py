"""/v1/batches: begin, look, list, cancel. The work is done by `serve/batches/runner.py`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.errors import InvalidInput, NotFound
from tutee.serve.access.auth import MEMBER, CallerDep, owned
from tutee.serve.body import Body
from tutee.serve.files.routes import read_lifetime
from tutee.serve.paging import Limit
from tutee.serve.replies import page_of, reply
from tutee.serve.services import ServicesDep
from tutee.store.files import BATCH_ENDED
from tutee.store.schema import Batch

router = APIRouter(prefix="/v1/batches")

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/responses",
)
MOMENTS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


@router.post("", openapi_extra=MEMBER)
def create(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Take a file of requests; it is checked as a whole before the first one is run."""
    for name in ("endpoint", "completion_window"):
        body.need(name)
    input_file_id = body.need_string("input_file_id")
    endpoint = body.choice("endpoint", ENDPOINTS)
    body.choice("completion_window", ("24h",))
    metadata = body.metadata()
    lifetime = read_lifetime(body, "output_expires_after")
    body.close()
    try:
        file = services.store.files.get(input_file_id, caller.id)
    except NotFound as error:
        raise InvalidInput(error.message, param="input_file_id", code="file_not_found") from None
    if file.purpose != "batch":
        message = f"'{file.id}' has the purpose {file.purpose!r}; upload it with the purpose 'batch'."
        raise InvalidInput(message, param="input_file_id", code="invalid_value")
    assert endpoint is not None
    return reply(batch_view(services.store.batches.add(caller.id, endpoint, file.id, metadata, lifetime)))


@router.get("", openapi_extra=MEMBER)
def list_batches(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
) -> Response:
    """The caller's batches, newest first."""
    page = services.store.batches.list(caller.id, limit, after)
    return page_of([batch_view(row) for row in page], page.has_more)


@router.get("/{id}", openapi_extra=owned("batch"))
def retrieve(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """How far it is."""
    return reply(batch_view(services.store.batches.get(id, caller.id)))


@router.post("/{id}/cancel", openapi_extra=owned("batch"))
def cancel(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Stop it; what was answered so far comes in its files."""
    return reply(batch_view(services.store.batches.request_cancel(id, caller.id)))


def batch_view(row: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""
    ended = row.status in BATCH_ENDED and row.status != "failed"
    moments = {f"{name}_at": int(row.moments[name]) if name in row.moments else None for name in MOMENTS}
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_file_id,
        "completion_window": row.completion_window,
        "status": row.status,
        "output_file_id": row.output_file_id if ended else None,
        "error_file_id": row.error_file_id if ended else None,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        **moments,
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "usage": {
            "input_tokens": row.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": row.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": row.input_tokens + row.output_tokens,
        },
        "metadata": row.metadata_,
    }
