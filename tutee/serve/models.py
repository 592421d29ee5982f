"""GET /v1/models: every name that `model` accepts. Ids hold `:` and `/`, hence the path parameters."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.errors import InvalidInput, NotFound
from tutee.serve.access.acting import acting
from tutee.serve.access.auth import MEMBER, OPERATOR, CallerDep
from tutee.serve.live import ALIAS, answering_name
from tutee.serve.replies import reply
from tutee.serve.services import ServicesDep
from tutee.store.schema import ModelVersion

router = APIRouter(prefix="/v1/models")


@router.get("", openapi_extra=MEMBER)
def list_models(services: ServicesDep) -> Response:
    """`chat` first, then every version, newest first, then the aliases that are whole names."""
    sees = acting.get().sees
    versions = [each for each in services.store.versions.list() if each.state != "revoked" and sees(each)]
    data = [_view(services.live.chat.version, ALIAS)] + [_view(version) for version in reversed(versions)]
    for alias in services.store.model_aliases.list():
        if "*" not in alias.pattern:
            with suppress(NotFound):  # its target is gone
                data.append(_view(services.live.find(alias.pattern), alias.pattern))
    if services.encoder is not None:
        data.append(_object(services.encoder.name, services.encoder.since))
    return reply({"object": "list", "data": data})


@router.get("/{model:path}", openapi_extra=MEMBER)
def retrieve(model: str, services: ServicesDep) -> Response:
    """One model by any of its names."""
    if services.encoder is not None and services.encoder.answers_to(model):
        return reply(_object(model, services.encoder.since))
    version = services.live.find(model)
    return reply(_view(version, model))


@router.delete("/{model:path}", openapi_extra=OPERATOR)
def delete(model: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Revoke a version: it answers no more and can never go live; its row and its lineage stay."""
    version = services.live.find(model)
    if answering_name(model, version) != model:
        message = f"'{model}' is an alias of '{version.name}'; remove it with `tutee models alias --remove`."
        raise InvalidInput(message, param="model", code="model_is_alias")
    if version.kind == "base" or version.state == "live":
        raise InvalidInput(
            f"'{model}' is the base or the live version; roll back first.", param="model", code="model_in_use"
        )
    services.store.versions.set_state(version.id, "revoked", caller.id)
    services.live.unload(version)
    return reply({"id": model, "object": "model", "deleted": True})


def _view(version: ModelVersion, name: str | None = None) -> dict[str, Any]:
    return _object(name or version.name, version.created_at)


def _object(name: str, since: float) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(since), "owned_by": "tutee"}
