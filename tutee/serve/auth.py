"""Who is calling, and what each route allows.

On loopback there is no login: every caller is the local owner, or the person named by `X-Tutee-Actor`, and any key is
taken. On another host every caller needs a key: the admin key, or one of the store's (kept as sha256 only). Each route
declares its rule beside its path (`openapi_extra=owned("conversation")`); a route without one answers nobody.
Knows nothing of what a route does: whether a row belongs to the caller is the store's to say (a foreign id is a 404).
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from tutee.errors import Forbidden, InvalidInput, Unauthenticated
from tutee.settings import Settings
from tutee.store import Store

RULE = "x-tutee-access"
PUBLIC: dict[str, Any] = {RULE: "public"}
"""Anybody, without a key: the page, liveness."""
MEMBER: dict[str, Any] = {RULE: "member"}
"""Any known caller; the reply holds only what is the caller's own or everybody's."""
OPERATOR: dict[str, Any] = {RULE: "operator"}
"""Who runs this server: anyone on loopback, the admin key elsewhere."""
HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")
OWNER_HANDLE = "owner"


def owned(thing: str) -> dict[str, Any]:
    """Any known caller, and only for a `thing` of their own; another's is a 404 like a missing one."""
    return {RULE: f"owner:{thing}"}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated actor."""

    id: str
    """Who owns what this request makes. An actor lives in one project, so `id` alone keeps projects apart."""
    project_id: str
    handle: str
    kind: str
    operator: bool
    """Whether the caller runs this server (may promote, roll back, start improvements)."""


class Doorkeeper:
    """Turns request headers into a `Caller`."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._known: dict[str, Caller] = {}  # actors never change their handle, so this cannot go stale

    @staticmethod
    def check_settings(settings: Settings) -> None:
        """Refuse to serve a host that others can reach without a key that others do not know."""
        if not settings.loopback and not settings.admin_key:
            raise InvalidInput(
                f"Host {settings.host} can be reached from other machines: set TUTEE_ADMIN_KEY to a secret first "
                "(or keep the default host, 127.0.0.1).",
                param="TUTEE_ADMIN_KEY",
                code="admin_key_required",
            )

    async def identify(self, request: Request) -> Caller:
        """The caller of a request.

        Raises:
            Unauthenticated: off loopback, without a valid bearer key.
            InvalidInput: on loopback, an `X-Tutee-Actor` that is no handle.
        """
        if self.settings.loopback:
            handle = request.headers.get("x-tutee-actor") or OWNER_HANDLE
            if handle in self._known:
                return self._known[handle]
            return await run_in_threadpool(self._actor, handle, True)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("You did not provide an API key. Send it as 'Authorization: Bearer KEY'.")
        return await run_in_threadpool(self._holder, key.strip())

    def _actor(self, handle: str, operator: bool) -> Caller:
        if not HANDLE.fullmatch(handle):
            raise InvalidInput(
                "X-Tutee-Actor must be 1 to 64 letters, digits or _.@+- and begin with a letter or digit.",
                param="X-Tutee-Actor",
                code="invalid_value",
            )
        actor = self.store.actors.get_or_create(handle)
        caller = Caller(actor.id, actor.project_id, actor.handle, actor.kind, operator)
        self._known[handle] = caller
        return caller

    def _holder(self, key: str) -> Caller:
        if hmac.compare_digest(key.encode(), self.settings.admin_key.encode()):
            return self._actor(OWNER_HANDLE, True)
        known = self.store.keys.find(key)
        if known is None:
            raise Unauthenticated("Incorrect API key provided.")
        actor = self.store.actors.get(known.actor_id)
        return Caller(actor.id, actor.project_id, actor.handle, actor.kind, operator=False)


async def authorise(request: Request) -> None:
    """Dependency of every router: enforce the rule that the route declares."""
    route = request.scope["route"]
    rule: str = (route.openapi_extra or {}).get(RULE, "")
    if rule == "public":
        return
    doorkeeper: Doorkeeper = request.app.state.services.doorkeeper
    caller = await doorkeeper.identify(request)
    if not rule or (rule == "operator" and not caller.operator):
        raise Forbidden("This needs the admin key.")
    request.state.caller = caller


async def the_caller(request: Request) -> Caller:
    """Dependency: the caller that `authorise` found."""
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(the_caller)]
