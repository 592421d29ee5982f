"""/v1/webhook_endpoints: who is told of what; the secret is shown when it is made, and never again."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from tutee.errors import InvalidInput
from tutee.ids import new_id
from tutee.serve.access.auth import MEMBER, CallerDep, owned
from tutee.serve.body import Body, Fields
from tutee.serve.paging import Limit
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.serve.webhooks.destinations import LONGEST_URL, check_url
from tutee.serve.webhooks.sender import private_allowed, send
from tutee.store.schema import WebhookEndpoint, now
from tutee.store.webhooks import EVENT_TYPES, SECRET_PREFIX, event_body, signing_secrets

router = APIRouter(prefix="/v1")

LONGEST_NAME = 256
HINT = 4


@router.get("/webhook_event_types", openapi_extra=MEMBER)
def list_event_types() -> Response:
    """What one can be told of."""
    return reply({"object": "list", "data": list(EVENT_TYPES)})


@router.post("/webhook_endpoints", openapi_extra=MEMBER)
def create(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Add an endpoint; the reply holds its signing secret."""
    name = body.need_string("name", most=LONGEST_NAME)
    body.need("url")
    body.need("event_types")
    url, types = _url(body, services), _event_types(body)
    body.close()
    assert url is not None
    assert types is not None
    return reply(endpoint_view(services.store.webhooks.add(caller.id, name, url, types), secret=True))


@router.get("/webhook_endpoints", openapi_extra=MEMBER)
def list_endpoints(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
) -> Response:
    """The caller's endpoints, newest first."""
    page = services.store.webhooks.list(caller.id, limit, after)
    return page_of([endpoint_view(row) for row in page], page.has_more)


@router.get("/webhook_endpoints/{id}", openapi_extra=owned("webhook"))
def retrieve(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One endpoint."""
    return reply(endpoint_view(services.store.webhooks.get(id, caller.id)))


@router.post("/webhook_endpoints/{id}", openapi_extra=owned("webhook"))
def update(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Change its name, its URL or what it is told of."""
    services.store.webhooks.get(id, caller.id)
    name = body.string("name", most=LONGEST_NAME, least=1)
    given = {"name": name, "url": _url(body, services), "event_types": _event_types(body)}
    body.close()
    changes = {key: value for key, value in given.items() if value is not None}
    return reply(endpoint_view(services.store.webhooks.update(id, caller.id, **changes)))


@router.delete("/webhook_endpoints/{id}", openapi_extra=owned("webhook"))
def delete(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Forget it, and what was still to be told to it."""
    services.store.webhooks.delete(id, caller.id)
    return reply({"id": id, "object": "webhook_endpoint.deleted", "deleted": True})


@router.post("/webhook_endpoints/{id}/rotate_secret", openapi_extra=owned("webhook"))
def rotate(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """A new secret; the old one can stay valid beside it for a day."""
    services.store.webhooks.get(id, caller.id)
    keep = body.boolean("keep_old_secret_active_for_24_hours") or False
    body.close()
    return reply(endpoint_view(services.store.webhooks.rotate(id, caller.id, keep), secret=True))


@router.post("/webhook_endpoints/{id}/test", openapi_extra=owned("webhook"))
def test(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Send a made-up event now and say what the endpoint answered."""
    row = services.store.webhooks.get(id, caller.id)
    body.need("event_type")
    event_type = body.choice("event_type", EVENT_TYPES)
    body.close()
    assert event_type is not None
    event_id = new_id("evt").replace("-", "_", 1)
    event = event_body(event_id, event_type, now(), {"id": "test"})
    try:
        content = msgspec.json.encode(event)
        status = send(row.url, event_id, content, signing_secrets(row), private_allowed(services.settings))
    except httpx.HTTPError as error:
        message = f"The endpoint could not be reached: {error or type(error).__name__}."
        raise InvalidInput(message, param="url", code="webhook_unreachable") from None
    return reply(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": id,
            "event_type": event_type,
            "status_code": status,
            "success": True,
        }
    )


def _url(body: Fields, services: Services) -> str | None:
    url = body.string("url", most=LONGEST_URL, least=1)
    if url is not None:
        check_url(url, private_allowed(services.settings))
    return url


def _event_types(body: Fields) -> list[str] | None:
    types = body.strings("event_types", most=100, longest=100)
    if types is not None and not types:
        body.refuse("event_types", "must name at least one type of event", "array_below_min_length")
    for i, name in enumerate(types or ()):
        if name not in EVENT_TYPES:
            known = ", ".join(EVENT_TYPES)
            body.refuse(f"event_types[{i}]", f"is {name!r}; this server tells of {known}", "invalid_value")
    return types


def endpoint_view(row: WebhookEndpoint, secret: bool = False) -> dict[str, Any]:
    """OpenAI's webhook endpoint; the secret itself only when it was just made."""
    shown = {"signing_secret": row.secret} if secret else {}
    return {
        "id": row.id,
        "object": "webhook_endpoint",
        "name": row.name,
        "url": row.url,
        "event_types": row.event_types,
        "created_at": int(row.created_at),
        "updated_at": int(row.updated_at),
        "signing_secret_hint": f"{SECRET_PREFIX}…{row.secret[-HINT:]}",
        **shown,
    }
