"""Who is calling, in which project, and what each route allows.

On loopback there is no login: every caller is the local owner, or the person named by `X-Tutee-Actor`, and any key is
taken; only one of our own (`tutee-…`, known to the store) acts as itself. On another host every caller needs a key: the
admin key, or one of the store's. Each route declares its rule beside its path (`openapi_extra=owned("conversation")`)
and has its scope in `scopes.py`; a route without one answers nobody. Knows nothing of what a route does: whether a row
belongs to the caller is the store's to say (a foreign id is a 404).
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from tutee.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from tutee.serve.access.acting import Acting, acting
from tutee.serve.access.limits import Account, Limits
from tutee.serve.access.scopes import ASKING, scopes_of
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.keys import ALL, PREFIX, grants, usable
from tutee.store.schema import DEFAULT_PROJECT, ApiKey

RULE = "x-tutee-access"
PUBLIC: dict[str, Any] = {RULE: "public"}
"""Anybody, without a key: the page, liveness."""
MEMBER: dict[str, Any] = {RULE: "member"}
"""Any known caller; the reply holds only what is the caller's own or everybody's."""
OPERATOR: dict[str, Any] = {RULE: "operator"}
"""Who runs this server: anyone on loopback, the admin key elsewhere."""
IN_PROCESS = "tutee.caller"
"""Key of an ASGI scope under which this process puts the caller itself (a batch's line); no client can set it."""
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
    scopes: tuple[str, ...] = (ALL,)
    account: Account | None = None
    """The limits of the key; None when there are none."""
    priority: int = 0


class Doorkeeper:
    """Turns request headers into a `Caller`."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._loopback = settings.loopback
        self.limits = Limits()
        self._known: dict[tuple[str, str], Caller] = {}  # actors never change their handle: this cannot go stale

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
            Unauthenticated: off loopback, without a valid bearer key; a revoked or expired key; a key of another
                project than the one that `OpenAI-Project` names.
            InvalidInput: on loopback, an `X-Tutee-Actor` that is no handle.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        project = request.headers.get("openai-project", "")
        if self._loopback:
            handle = request.headers.get("x-tutee-actor") or OWNER_HANDLE
            if not key.startswith(PREFIX) and (found := self._known.get((handle, project or DEFAULT_PROJECT))):
                return found
            return await run_in_threadpool(self._local, handle, key, project)
        if not key:
            raise Unauthenticated("You did not provide an API key. Send it as 'Authorization: Bearer KEY'.")
        return await run_in_threadpool(self._holder, key, project)

    def on_behalf(self, actor_id: str, priority: int) -> Caller:
        """Somebody whose work is done when they are not there: with all their rights, but an operator's. What their
        key was allowed is checked when the work is made; the key may be gone since."""
        actor = self.store.actors.get(actor_id)
        return Caller(actor.id, actor.project_id, actor.handle, actor.kind, operator=False, priority=priority)

    def _local(self, handle: str, key: str, project: str) -> Caller:
        """Projects that are not ours are the default one: the header comes from scripts written for other servers."""
        if key.startswith(PREFIX) and (row := self.store.keys.find(key)) is not None:
            return self._of_key(row, project)
        try:
            return self._actor(handle, self.store.projects.get(project or DEFAULT_PROJECT).id)
        except NotFound:
            return self._actor(handle, DEFAULT_PROJECT)

    def _actor(self, handle: str, project_id: str) -> Caller:
        if not HANDLE.fullmatch(handle):
            raise InvalidInput(
                "X-Tutee-Actor must be 1 to 64 letters, digits or _.@+- and begin with a letter or digit.",
                param="X-Tutee-Actor",
                code="invalid_value",
            )
        actor = self.store.actors.get_or_create(handle, project_id=project_id)
        caller = Caller(actor.id, actor.project_id, actor.handle, actor.kind, operator=True)
        self._known[handle, project_id] = caller
        return caller

    def _holder(self, key: str, project: str) -> Caller:
        if hmac.compare_digest(key.encode(), self.settings.admin_key.encode()):
            try:
                return self._actor(OWNER_HANDLE, self.store.projects.get(project or DEFAULT_PROJECT).id)
            except NotFound:
                raise _mismatched(project) from None
        row = self.store.keys.find(key)
        if row is None:
            raise Unauthenticated("Incorrect API key provided.")
        return self._of_key(row, project)

    def _of_key(self, key: ApiKey, asked_project: str) -> Caller:
        if not usable(key):
            raise Unauthenticated("This API key was revoked." if key.revoked_at else "This API key has expired.")
        project = self.store.projects.get(key.project_id)
        if project.archived_at is not None:
            raise Unauthenticated("The project of this API key is archived.", code="project_archived")
        if asked_project and asked_project != project.id:
            raise _mismatched(asked_project)
        self.store.keys.used(key)
        caller = self.on_behalf(key.actor_id, priority=0)
        return replace(caller, scopes=tuple(key.scopes), account=self.limits.account([key, project]))


def _mismatched(project: str) -> Unauthenticated:
    return Unauthenticated(f"This API key does not belong to the project {project!r}.", code="mismatched_project")


async def authorise(request: Request) -> None:
    """Dependency of every router: enforce the rule that the route declares, its scope, and the key's limits."""
    route = request.scope["route"]
    rule: str = (route.openapi_extra or {}).get(RULE, "")
    if rule == "public":
        return
    doorkeeper: Doorkeeper = request.app.state.services.doorkeeper
    caller: Caller = request.scope.get(IN_PROCESS) or await doorkeeper.identify(request)
    if not rule or (rule == "operator" and not caller.operator):
        raise Forbidden("This needs the admin key.")
    _check_scopes(caller, scopes_of(request.method, route.path))
    charge = None
    if caller.account is not None:
        request.state.account = caller.account
        caller.account.admit()
        charge = caller.account.charge
    request.state.caller = caller
    acting.set(Acting(caller.project_id, caller.priority, charge))


def may_ask_models(caller: Caller) -> None:
    """Raises Forbidden when the caller's key may not ask models: for work that would ask them on its behalf."""
    _check_scopes(caller, (ASKING,))


def _check_scopes(caller: Caller, needed: tuple[str, ...] | None) -> None:
    """Raises Forbidden when the caller's key lacks a scope (None: a route that the table of scopes forgot)."""
    missing = [scope for scope in (needed if needed is not None else (ALL,)) if not grants(caller.scopes, scope)]
    if missing:
        raise Forbidden(f"This key may not do this. Missing scopes: {', '.join(missing)}.")


async def the_caller(request: Request) -> Caller:
    """Dependency: the caller that `authorise` found."""
    caller: Caller = request.state.caller
    return caller


CallerDep = Annotated[Caller, Depends(the_caller)]
