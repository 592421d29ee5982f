"""/v1/conversations, as OpenAI's API has them: lists of items that responses read and add to.

Not the page's conversations, which are trees with feedback (`/v1/tutee/conversations`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.serve.access.auth import MEMBER, Caller, CallerDep, owned
from tutee.serve.body import Body, Fields, read_new_metadata
from tutee.serve.paging import Limit, Order
from tutee.serve.replies import reply
from tutee.serve.responses.items import Item, item_page, read_items
from tutee.serve.responses.running import finder
from tutee.serve.services import Services, ServicesDep
from tutee.store.schema import OpenAIConversation

router = APIRouter(prefix="/v1/conversations")

MOST_ITEMS = 20
"""Items of one request (OpenAI's limit)."""


@router.post("", openapi_extra=MEMBER)
def create(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """A new conversation, with items if there are any."""
    metadata = body.metadata() or {}
    items = _items(body, caller, services)
    return reply(_view(services.store.openai_conversations.add(caller.id, metadata, items)))


@router.get("/{id}", openapi_extra=owned("openai_conversation"))
def retrieve(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One conversation, without its items."""
    return reply(_view(services.store.openai_conversations.get(id, caller.id)))


@router.post("/{id}", openapi_extra=owned("openai_conversation"))
def update(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Replace the metadata."""
    services.store.openai_conversations.get(id, caller.id)
    metadata = read_new_metadata(body)
    return reply(_view(services.store.openai_conversations.update(id, caller.id, metadata)))


@router.delete("/{id}", openapi_extra=owned("openai_conversation"))
def delete(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Forget a conversation with its items; responses keep their own."""
    services.store.openai_conversations.delete(id, caller.id)
    return reply({"id": id, "object": "conversation.deleted", "deleted": True})


@router.post("/{id}/items", openapi_extra=owned("openai_conversation"))
def create_items(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Add items at the end; returns them with their ids."""
    services.store.openai_conversations.get(id, caller.id)
    body.need("items")
    items = _items(body, caller, services)
    return item_page(services.store.openai_conversations.add_items(id, caller.id, items), False)


@router.get("/{id}/items", openapi_extra=owned("openai_conversation"))
def list_items(
    id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "desc",
) -> Response:
    """Items in pages."""
    page = services.store.openai_conversations.items(id, caller.id, limit=limit, after=after, order=order)
    return item_page([row.item for row in page], page.has_more)


@router.get("/{id}/items/{item}", openapi_extra=owned("openai_conversation"))
def retrieve_item(id: str, item: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One item."""
    return reply(services.store.openai_conversations.item(id, item, caller.id))


@router.delete("/{id}/items/{item}", openapi_extra=owned("openai_conversation"))
def delete_item(id: str, item: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Take an item out; returns the conversation."""
    return reply(_view(services.store.openai_conversations.delete_item(id, item, caller.id)))


def _items(body: Fields, caller: Caller, services: Services) -> list[Item]:
    """The items of a body whose other fields are read."""
    items = read_items(body, finder(services.store, caller.id), most=MOST_ITEMS)
    body.close()
    return items


def _view(row: OpenAIConversation) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "conversation",
        "created_at": int(row.created_at),
        "metadata": dict(row.metadata_),
    }
