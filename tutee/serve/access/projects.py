"""/v1/organization/projects: projects, their keys and their limits, for whoever runs this server.

In OpenAI's shapes: a key is made by making a service account, whose id is the key's; all service accounts of a project
are one actor, so they share what they make. There is one rate limit a project, for all models (`*`). People's own keys
are made with `tutee keys create NAME`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.errors import NotFound
from tutee.serve.access.auth import OPERATOR
from tutee.serve.body import Body, Fields
from tutee.serve.paging import Limit
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.store.keys import SCOPES
from tutee.store.projects import LONGEST_NAME, SERVICE
from tutee.store.schema import Actor, ApiKey, Project, now

router = APIRouter(prefix="/v1/organization/projects")

LIMIT_ID = "rl-all"
MOST = 2**31
"""What an absent limit is shown as: OpenAI's shape has no word for none."""
LONGEST_LIFE = 10 * 366 * 86_400


@router.get("", openapi_extra=OPERATOR)
def list_projects(
    services: ServicesDep, limit: Limit = 20, after: str | None = None, include_archived: bool = False
) -> Response:
    """Projects, newest first."""
    page = services.store.projects.list(limit, after, include_archived)
    return page_of([project_view(row) for row in page], page.has_more)


@router.post("", openapi_extra=OPERATOR)
def create_project(services: ServicesDep, body: Body) -> Response:
    """A new project."""
    name = body.need_string("name", most=LONGEST_NAME)
    body.unsupported({"external_key_id": (), "geography": (), "residency": ()})
    body.close()
    return reply(project_view(services.store.projects.add(name)))


@router.get("/{project_id}", openapi_extra=OPERATOR)
def get_project(project_id: str, services: ServicesDep) -> Response:
    """One project."""
    return reply(project_view(services.store.projects.get(project_id)))


@router.post("/{project_id}", openapi_extra=OPERATOR)
def rename_project(project_id: str, services: ServicesDep, body: Body) -> Response:
    """Give it another name."""
    body.unsupported({"external_key_id": (), "geography": ()})
    name = body.string("name", most=LONGEST_NAME, least=1)
    body.close()
    if name is None:
        return get_project(project_id, services)
    return reply(project_view(services.store.projects.rename(project_id, name)))


@router.post("/{project_id}/archive", openapi_extra=OPERATOR)
def archive_project(project_id: str, services: ServicesDep) -> Response:
    """Close it for good: its keys open nothing any more."""
    return reply(project_view(services.store.projects.archive(project_id)))


# --- keys ----------------------------------------------------------------------------------------------------------


@router.post("/{project_id}/service_accounts", openapi_extra=OPERATOR)
def create_service_account(project_id: str, services: ServicesDep, body: Body) -> Response:
    """A new key of the project; its value is in this reply and nowhere else."""
    actor = _service_actor(services, project_id)
    name = body.need_string("name", most=LONGEST_NAME)
    body.unsupported({"create_service_account_only": (False,)})
    expires_at = _end(body)
    body.close()
    text, row = services.store.keys.add(actor.id, name, expires_at=expires_at)
    shown = {
        "id": row.id,
        "object": "organization.project.service_account.api_key",
        "name": row.name,
        "created_at": int(row.created_at),
        "expires_at": _whole(row.expires_at),
        "value": text,
    }
    return reply(account_view(row) | {"api_key": shown})


@router.get("/{project_id}/service_accounts", openapi_extra=OPERATOR)
def list_service_accounts(
    project_id: str, services: ServicesDep, limit: Limit = 20, after: str | None = None
) -> Response:
    """The project's keys that name nobody."""
    actor = _service_actor(services, project_id)
    page = services.store.keys.of_project(actor.project_id, limit, after, actor_id=actor.id)
    return page_of([account_view(row) for row in page], page.has_more)


@router.get("/{project_id}/service_accounts/{account_id}", openapi_extra=OPERATOR)
def get_service_account(project_id: str, account_id: str, services: ServicesDep) -> Response:
    """One of them."""
    return reply(account_view(_account(services, project_id, account_id)))


@router.delete("/{project_id}/service_accounts/{account_id}", openapi_extra=OPERATOR)
def delete_service_account(project_id: str, account_id: str, services: ServicesDep) -> Response:
    """Revoke its key."""
    services.store.keys.revoke(_account(services, project_id, account_id).id)
    return reply({"id": account_id, "object": "organization.project.service_account.deleted", "deleted": True})


@router.get("/{project_id}/api_keys", openapi_extra=OPERATOR)
def list_keys(project_id: str, services: ServicesDep, limit: Limit = 20, after: str | None = None) -> Response:
    """The project's keys, oldest first, without their values."""
    page = services.store.keys.of_project(services.store.projects.get(project_id).id, limit, after)
    return page_of([key_view(row, services) for row in page], page.has_more)


@router.get("/{project_id}/api_keys/{key_id}", openapi_extra=OPERATOR)
def get_key(project_id: str, key_id: str, services: ServicesDep) -> Response:
    """One key."""
    return reply(key_view(_key(services, project_id, key_id), services))


@router.post("/{project_id}/api_keys/{key_id}", openapi_extra=OPERATOR)
def update_key(project_id: str, key_id: str, services: ServicesDep, body: Body) -> Response:
    """Change what a key may do, or when it ends; no scopes at all means all."""
    row = _key(services, project_id, key_id)
    scopes = body.strings("scopes", most=len(SCOPES), longest=100)
    given = {"scopes": scopes, "expires_at": _end(body)}
    body.close()
    changes = {name: value for name, value in given.items() if value is not None}
    return reply(key_view(services.store.keys.update(row.id, **changes), services))


@router.delete("/{project_id}/api_keys/{key_id}", openapi_extra=OPERATOR)
def delete_key(project_id: str, key_id: str, services: ServicesDep) -> Response:
    """Revoke a key, now and for good."""
    services.store.keys.revoke(_key(services, project_id, key_id).id)
    return reply({"id": key_id, "object": "organization.project.api_key.deleted", "deleted": True})


# --- limits --------------------------------------------------------------------------------------------------------


@router.get("/{project_id}/rate_limits", openapi_extra=OPERATOR)
def list_rate_limits(project_id: str, services: ServicesDep) -> Response:
    """The one limit that a project has."""
    return page_of([limit_view(services.store.projects.get(project_id))], False)


@router.post("/{project_id}/rate_limits/{limit_id}", openapi_extra=OPERATOR)
def set_rate_limit(project_id: str, limit_id: str, services: ServicesDep, body: Body) -> Response:
    """Change how many requests and tokens all keys of the project may use in a minute."""
    project = services.store.projects.get(project_id)
    if limit_id != LIMIT_ID:
        raise NotFound(f"There is no rate limit {limit_id!r}; there is one, {LIMIT_ID!r}.", param="rate_limit_id")
    others = ("batch_1_day_max_input_tokens", "max_audio_megabytes_per_1_minute", "max_images_per_1_minute")
    body.unsupported(dict.fromkeys((*others, "max_requests_per_1_day"), ()))
    requests = body.integer("max_requests_per_1_minute", 1, MOST) or project.requests_per_minute
    tokens = body.integer("max_tokens_per_1_minute", 1, MOST) or project.tokens_per_minute
    body.close()
    changed = services.store.projects.set_limits(
        project.id, requests_per_minute=_limit(requests), tokens_per_minute=_limit(tokens)
    )
    return reply(limit_view(changed))


# --- views ---------------------------------------------------------------------------------------------------------


def project_view(row: Project) -> dict[str, Any]:
    """OpenAI's project object."""
    return {
        "id": row.id,
        "object": "organization.project",
        "name": row.name,
        "created_at": int(row.created_at),
        "archived_at": _whole(row.archived_at),
        "status": "active" if row.archived_at is None else "archived",
    }


def account_view(row: ApiKey) -> dict[str, Any]:
    """A key as OpenAI's service account."""
    return {
        "id": row.id,
        "object": "organization.project.service_account",
        "name": row.name,
        "role": "member",
        "created_at": int(row.created_at),
    }


def key_view(row: ApiKey, services: Services) -> dict[str, Any]:
    """OpenAI's project API key, with the scopes and the limits of ours."""
    return {
        "id": row.id,
        "object": "organization.project.api_key",
        "name": row.name,
        "redacted_value": f"{row.prefix}…",
        "created_at": int(row.created_at),
        "last_used_at": _whole(row.last_used_at),
        "expires_at": _whole(row.expires_at),
        "owner": _owner(services.store.actors.get(row.actor_id)),
        "owner_project_access": "active",
        "scopes": row.scopes,
        "requests_per_minute": row.requests_per_minute,
        "tokens_per_minute": row.tokens_per_minute,
    }


def limit_view(row: Project) -> dict[str, Any]:
    """OpenAI's rate limit."""
    return {
        "id": LIMIT_ID,
        "object": "project.rate_limit",
        "model": "*",
        "max_requests_per_1_minute": row.requests_per_minute or MOST,
        "max_tokens_per_1_minute": row.tokens_per_minute or MOST,
    }


def _owner(actor: Actor) -> dict[str, Any]:
    name = actor.handle.removeprefix(f"{actor.project_id}/")
    facts = {"id": actor.id, "name": name, "role": "member", "created_at": int(actor.created_at)}
    if actor.kind == SERVICE:
        return {"type": "service_account", "service_account": facts, "user": None}
    return {"type": "user", "service_account": None, "user": facts | {"email": ""}}


def _key(services: Services, project_id: str, key_id: str) -> ApiKey:
    row = services.store.keys.get(key_id, services.store.projects.get(project_id).id)
    if row.revoked_at is not None:
        raise NotFound(f"There is no key {key_id!r}.", param="id")
    return row


def _account(services: Services, project_id: str, account_id: str) -> ApiKey:
    """A key that names nobody; a person's is no service account."""
    row = _key(services, project_id, account_id)
    if row.actor_id != _service_actor(services, project_id).id:
        raise NotFound(f"There is no service account {account_id!r}.", param="id")
    return row


def _service_actor(services: Services, project_id: str) -> Actor:
    """Whom all keys of a project that name nobody act as."""
    return services.store.actors.get_or_create(SERVICE, SERVICE, services.store.projects.get(project_id).id)


def _end(body: Fields) -> float | None:
    seconds = body.integer("expires_in_seconds", 1, LONGEST_LIFE)
    return None if seconds is None else now() + seconds


def _limit(value: int | None) -> int | None:
    return None if value is None or value >= MOST else value


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
