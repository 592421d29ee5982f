"""API keys: whose they are, what they may do, until when. Only the sha256 of a key is kept; its text is shown once.

A plain hash is enough: the text is 256 random bits, so there is nothing to guess. What a key may do is a list of
scopes: `all`, `all.read`, or single ones such as `files.read` and `model.request` (OpenAI's prefix `api.` may be there
or not); `write` includes `read`. Which route needs which scope is the server's to know (`serve/access/scopes.py`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, update

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.actors import require_actor
from tutee.store.database import Database, affected
from tutee.store.paging import paginate
from tutee.store.projects import check_limit, require_open
from tutee.store.records import Page
from tutee.store.schema import ApiKey, now

PREFIX = "tutee-"
ALL, READ_ALL = "all", "all.read"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "model": ("read", "write", "request"),
    "responses": ("read", "write"),
    "files": ("read", "write"),
    "fine_tuning": ("read", "write"),
    "evals": ("read", "write"),
    "batches": ("read", "write"),
    "webhooks": ("read", "write"),
    "tutee": ("read", "write"),
}
"""Group of routes → what can be granted there."""
SCOPES = (ALL, READ_ALL, *(f"{group}.{verb}" for group, verbs in GROUPS.items() for verb in verbs))
USE_SECONDS = 60.0
"""`last_used_at` is written at most this often."""


class Keys:
    """Keys by their text, by id, and by project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        actor_id: str,
        name: str,
        *,
        scopes: Sequence[str] = (ALL,),
        expires_at: float | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> tuple[str, ApiKey]:
        """A fresh key, in the project of its actor, and its row.

        Args:
            expires_at: seconds since 1970; None for ever.
            requests_per_minute, tokens_per_minute: None leaves it to the project's limits.

        Raises:
            NotFound: no such actor.
            InvalidInput: an unknown scope, a limit below 1, or an archived project (code project_archived).
        """
        text = PREFIX + secrets.token_urlsafe(32)
        row = ApiKey(
            id=new_id("key"),
            actor_id=actor_id,
            name=name,
            sha256=_hash(text),
            prefix=text[:10],
            scopes=check_scopes(scopes),
            expires_at=expires_at,
            requests_per_minute=check_limit("requests_per_minute", requests_per_minute),
            tokens_per_minute=check_limit("tokens_per_minute", tokens_per_minute),
        )
        with self._database.write() as session:
            require_open(session, require_actor(session, actor_id).project_id)
            session.add(row)
            session.flush()
            audit.append(session, "key.add", row.id, actor_id, {"scopes": row.scopes})
            return text, row

    def find(self, text: str) -> ApiKey | None:
        """The row of this key, None when it is unknown; revoked and expired ones are found too (see `usable`)."""
        with self._database.read() as session:
            return session.scalar(select(ApiKey).where(ApiKey.sha256 == _hash(text)))

    def used(self, key: ApiKey) -> None:
        """Note that the key was used now."""
        moment = now()
        if key.last_used_at is None or moment - key.last_used_at > USE_SECONDS:
            with self._database.write(durable=False) as session:
                session.execute(update(ApiKey).where(ApiKey.id == key.id).values(last_used_at=moment))

    def get(self, id: str, project_id: str) -> ApiKey:
        """The key, if it is one of this project.

        Raises:
            NotFound: it is not.
        """
        with self._database.read() as session:
            row = session.get(ApiKey, id)
        if row is None or row.project_id != project_id:
            raise _unknown(id)
        return row

    def list(self, actor_id: str) -> list[ApiKey]:
        """The actor's keys, revoked ones too, oldest first."""
        with self._database.read() as session:
            return list(session.scalars(select(ApiKey).where(ApiKey.actor_id == actor_id).order_by(ApiKey.created_at)))

    def of_project(
        self, project_id: str, limit: int = 20, after: str | None = None, *, actor_id: str | None = None
    ) -> Page[ApiKey]:
        """The project's keys that were not revoked, oldest first; with `actor_id`, those of one actor."""
        statement = select(ApiKey).where(ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None))
        if actor_id is not None:
            statement = statement.where(ApiKey.actor_id == actor_id)
        with self._database.read() as session:
            return paginate(session, statement, ApiKey.created_at, ApiKey.id, limit=limit, after=after, order="asc")

    def update(self, id: str, **changes: Any) -> ApiKey:
        """Change `scopes`, `expires_at`, `requests_per_minute` or `tokens_per_minute`.

        Raises:
            NotFound: no such key, or a revoked one. InvalidInput: as `add`.
        """
        with self._database.write() as session:
            row = session.get(ApiKey, id)
            if row is None or row.revoked_at is not None:
                raise _unknown(id)
            for name, value in changes.items():
                if name.endswith("_per_minute"):
                    check_limit(name, value)
                setattr(row, name, check_scopes(value) if name == "scopes" else value)
            audit.append(session, "key.update", id, None, changes)
            return row

    def revoke(self, id: str) -> None:
        """Make a key worthless, now and for good.

        Raises:
            NotFound: no such key, or revoked already.
        """
        with self._database.write() as session:
            statement = update(ApiKey).where(ApiKey.id == id, ApiKey.revoked_at.is_(None)).values(revoked_at=now())
            if affected(session, statement) == 0:
                raise _unknown(id)
            audit.append(session, "key.revoke", id)


def usable(key: ApiKey) -> bool:
    """Whether the key opens anything now."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now())


def check_scopes(scopes: Sequence[str]) -> list[str]:
    """The scopes under the names that we keep; none at all means `all`, as in OpenAI's API.

    Raises:
        InvalidInput: one that does not exist.
    """
    found = []
    for i, scope in enumerate(scopes):
        name = scope.removeprefix("api.")
        if name not in SCOPES:
            message = f"'scopes[{i}]' is {scope!r}; it must be one of {', '.join(SCOPES)}."
            raise InvalidInput(message, param=f"scopes[{i}]", code="invalid_value")
        found.append(name)
    return list(dict.fromkeys(found)) or [ALL]


def grants(scopes: Sequence[str], needed: str) -> bool:
    """Whether these scopes allow what needs `needed` (such as `files.read`)."""
    if ALL in scopes or needed in scopes:
        return True
    group, _, verb = needed.partition(".")
    return verb == "read" and (READ_ALL in scopes or f"{group}.write" in scopes)


def _unknown(id: str) -> NotFound:
    return NotFound(f"There is no key {id!r}.", param="id")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
