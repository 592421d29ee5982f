"""Chat completions kept with `store: true`: retrieve, list by metadata, update metadata, delete, read the messages.

Some metadata are feedback (`data/completion_feedback.py`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tutee.data.completion_feedback import give, read_opinion
from tutee.errors import InvalidInput
from tutee.serve.access.auth import MEMBER, CallerDep, owned
from tutee.serve.body import Body, read_new_metadata
from tutee.serve.paging import Limit, Order, metadata_filter
from tutee.serve.replies import page_of, reply
from tutee.serve.services import ServicesDep
from tutee.store.schema import Completion

router = APIRouter(prefix="/v1/chat/completions")


@router.get("", openapi_extra=MEMBER)
def list_completions(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "asc",
    model: str | None = None,
) -> Response:
    """The caller's stored completions, filtered by `model` and `metadata[key]=value`."""
    page = services.store.completions.list(
        caller.id, model=model, metadata=metadata_filter(request), limit=limit, after=after, order=order
    )
    return page_of([_view(row) for row in page], page.has_more)


@router.get("/{id}", openapi_extra=owned("completion"))
def retrieve(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One stored completion."""
    return reply(_view(services.store.completions.get(id, caller.id)))


@router.post("/{id}", openapi_extra=owned("completion"))
def update(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Replace the metadata; some of them say what somebody thought of the answer."""
    row = services.store.completions.get(id, caller.id)
    metadata = read_new_metadata(body)
    give(services.store, row, read_opinion(metadata), caller.id)
    return reply(_view(services.store.completions.update(id, caller.id, metadata)))


@router.delete("/{id}", openapi_extra=owned("completion"))
def delete(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Forget one."""
    services.store.completions.delete(id, caller.id)
    return reply({"id": id, "object": "chat.completion.deleted", "deleted": True})


@router.get("/{id}/messages", openapi_extra=owned("completion"))
def list_messages(
    id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "asc",
) -> Response:
    """The messages that it answered."""
    row = services.store.completions.get(id, caller.id)
    messages = [_message(id, i, message) for i, message in enumerate(row.messages)]
    if order == "desc":
        messages.reverse()
    start = 0
    if after is not None:
        ids = [message["id"] for message in messages]
        if after not in ids:
            message = f"'after' is {after!r}, which is not in this list."
            raise InvalidInput(message, param="after", code="invalid_value")
        start = ids.index(after) + 1
    return page_of(messages[start : start + limit], start + limit < len(messages))


def _view(row: Completion) -> dict[str, Any]:
    return dict(row.response) | {"metadata": dict(row.metadata_)}


def _message(id: str, index: int, message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = "".join(part.get("text", "") for part in parts) if parts is not None else content
    return {
        "id": f"{id}-{index}",
        "role": message["role"],
        "content": text,
        "content_parts": parts,
        "refusal": None,
        "name": message.get("name"),
    }
