"""Native routes about the caller: who am I, may my chats be learned from, all my data as one archive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

import tutee
from tutee.data.archive import export_actor
from tutee.data.taken_back import forget_taken_back
from tutee.serve.access.auth import MEMBER, CallerDep
from tutee.serve.body import Body
from tutee.serve.native.versions import version_views
from tutee.serve.replies import reply
from tutee.serve.services import ServicesDep

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
