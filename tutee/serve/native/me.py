"""Native routes about the caller: who am I, may my chats be learned from, all my data as one archive, or gone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

import tutee
from tutee.data.archive import export_actor
from tutee.data.taken_back import erase_person, forget_taken_back
from tutee.errors import Forbidden
from tutee.serve.access.auth import MEMBER, CallerDep
from tutee.serve.body import Body
from tutee.serve.native.versions import version_views
from tutee.serve.replies import reply
from tutee.serve.services import ServicesDep
from tutee.store.projects import SERVICE

router = APIRouter(prefix="/v1/tutee")

SCOPE = "train"
POLICY_VERSION = "1"
"""Of the text beside the switch; stored with every decision."""
PIECE = 1 << 16
IN_MEMORY = 8 << 20
"""Bytes of an export kept in memory; a larger one goes through a temporary file."""


@router.get("/me", openapi_extra=MEMBER)
def get_me(caller: CallerDep, services: ServicesDep) -> Response:
    """The caller, what they may and agreed to, what is live, and whether its answers begin in the midst of thoughts."""
    live = services.live.chat
    return reply(
        {
            "actor": {"id": caller.id, "handle": caller.handle, "kind": caller.kind},
            "consent": {"train": services.store.consents.granted(caller.id, SCOPE)},
            "live": version_views(services, [live.version])[0],
            "base": {"name": services.live.root(live.version).name, "context_length": live.context_length},
            "version": tutee.__version__,
            "operator": caller.operator,
            "thinking": not live.upstream and live.model.chat_format.begins_thinking,
        }
    )


@router.put("/consent", openapi_extra=MEMBER)
def set_consent(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Say whether the caller's chats may be learned from."""
    body.need("train")
    granted = body.boolean("train")
    assert granted is not None
    services.store.consents.set(caller.id, SCOPE, granted, policy_version=POLICY_VERSION)
    if not granted:
        forget_taken_back(services.store)
    return reply({"train": granted})


@router.delete("/me", openapi_extra=MEMBER)
def erase_me(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Erase the caller with everything that is theirs; names the versions that learned from it. The body must say the
    caller's `handle`, for there is no way back."""
    if caller.kind == SERVICE:
        said = "This key stands for everybody who has one like it. Whoever runs the server can `tutee erase` it."
        raise Forbidden(said, code="shared_account")
    if body.need_string("handle") != caller.handle:
        body.refuse("handle", f"must be {caller.handle!r}, your own, for nothing can be brought back", "invalid_value")
    services.answers.stop_all(caller.id)
    services.temporary.forget_all(caller.id)
    erased, jobs = erase_person(services.store, caller.id)
    gone = {
        "removed": dict(erased.removed),
        "emptied_jobs": jobs,
        "tainted_versions": erased.tombstone.tainted_versions,
    }
    return reply({"id": erased.tombstone.id, "deleted": True, **gone})


@router.get("/export", openapi_extra=MEMBER)
def export(caller: CallerDep, services: ServicesDep) -> Response:
    """Everything of the caller's: conversations, answers, feedback, consents."""
    file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (closed by `_pieces`)
    export_actor(services.store, caller.id, file)  # type: ignore[arg-type]
    file.seek(0)
    headers = {"content-disposition": "attachment; filename=tutee-export.zip"}
    return StreamingResponse(_pieces(file), media_type="application/zip", headers=headers)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece
