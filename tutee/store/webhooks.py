"""Webhooks: who wants to be told of what, and what is still to be told.

`announce` is called inside the transaction in which something happens (a job ends, a batch is done): the deliveries are
rows of that transaction, so what happened is told even when the process is killed right after, and what was rolled back
never is. Sending and signing is `serve/webhooks/sender.py`'s.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tutee.errors import NotFound
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.database import Database, affected
from tutee.store.paging import paginate
from tutee.store.records import Page
from tutee.store.schema import WebhookDelivery, WebhookEndpoint, now

EVENT_TYPES = (
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "eval.run.succeeded",
    "eval.run.failed",
    "eval.run.canceled",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
)
SECRET_PREFIX = "whsec_"
OLD_SECRET_SECONDS = 24 * 3600.0
KEPT_SECONDS = 30 * 24 * 3600.0
"""How long it can be looked up what became of a delivery."""


@dataclass(frozen=True, slots=True)
class Due:
    """One delivery whose time has come, and where it goes."""

    id: str
    event_id: str
    body: Mapping[str, Any]
    attempts: int
    created_at: float
    url: str
    secrets: Sequence[str]


def announce(session: Session, actor_id: str | None, type: str, object_id: str) -> None:
    """Tell whoever of the same actor wants to know that something of theirs came to this; part of the transaction.

    Args:
        type: one of `EVENT_TYPES`.
        object_id: of the job, run, batch or response.
    """
    assert type in EVENT_TYPES, type
    endpoints = session.scalars(select(WebhookEndpoint).where(WebhookEndpoint.actor_id == actor_id)).all()
    event_id, moment = new_id("evt").replace("-", "_", 1), now()
    for endpoint in endpoints:
        if type in endpoint.event_types:
            session.add(
                WebhookDelivery(
                    id=new_id("whd"),
                    endpoint_id=endpoint.id,
                    event_id=event_id,
                    type=type,
                    data={"id": object_id},
                    created_at=moment,
                    next_at=moment,
                )
            )


class Webhooks:
    """Endpoints by id, and the queue of deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, actor_id: str, name: str, url: str, event_types: Sequence[str]) -> WebhookEndpoint:
        """A new endpoint with a fresh secret."""
        moment = now()
        row = WebhookEndpoint(
            id=new_id("wh"),
            actor_id=actor_id,
            name=name,
            url=url,
            event_types=list(dict.fromkeys(event_types)),
            secret=new_secret(),
            created_at=moment,
            updated_at=moment,
        )
        with self._database.write() as session:
            session.add(row)
            session.flush()
            audit.append(session, "webhook.add", row.id, actor_id)  # without the address: the log is for ever
            return row

    def get(self, id: str, actor_id: str) -> WebhookEndpoint:
        """The endpoint.

        Raises:
            NotFound: no such endpoint, or somebody else's (code webhook_endpoint_not_found).
        """
        with self._database.read() as session:
            return _require(session, id, actor_id)

    def list(self, actor_id: str, limit: int = 20, after: str | None = None) -> Page[WebhookEndpoint]:
        """The actor's endpoints, newest first."""
        statement = select(WebhookEndpoint).where(WebhookEndpoint.actor_id == actor_id)
        with self._database.read() as session:
            return paginate(
                session, statement, WebhookEndpoint.created_at, WebhookEndpoint.id, limit=limit, after=after
            )

    def update(self, id: str, actor_id: str, **changes: Any) -> WebhookEndpoint:
        """Change `name`, `url` or `event_types`; raises as `get`."""
        with self._database.write() as session:
            row = _require(session, id, actor_id)
            before = {name: getattr(row, name) for name in changes}
            for name, value in changes.items():
                setattr(row, name, value)
            if before != changes:
                row.updated_at = now()
                audit.append(session, "webhook.update", id, actor_id, {"changed": sorted(changes)})
            return row

    def rotate(self, id: str, actor_id: str, keep_old: bool) -> WebhookEndpoint:
        """A fresh secret; with `keep_old` deliveries carry the old one's signature too for a day. Raises as `get`."""
        with self._database.write() as session:
            row = _require(session, id, actor_id)
            row.old_secret = row.secret if keep_old else None
            row.updated_at = now()
            row.old_secret_until = row.updated_at + OLD_SECRET_SECONDS if keep_old else None
            row.secret = new_secret()
            audit.append(session, "webhook.rotate", id, actor_id)
            return row

    def delete(self, id: str, actor_id: str) -> None:
        """Forget an endpoint and what was still to be told to it. Raises as `get`."""
        with self._database.write() as session:
            session.delete(_require(session, id, actor_id))
            audit.append(session, "webhook.delete", id, actor_id)

    def due(self, limit: int = 20) -> Sequence[Due]:
        """Deliveries whose time has come, the longest waiting first."""
        statement = (
            select(WebhookDelivery, WebhookEndpoint)
            .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
            .where(WebhookDelivery.settled_at.is_(None), WebhookDelivery.next_at <= now())
            .order_by(WebhookDelivery.next_at)
            .limit(limit)
        )
        with self._database.read() as session:
            return [
                Due(
                    id=delivery.id,
                    event_id=delivery.event_id,
                    body=event_body(delivery.event_id, delivery.type, delivery.created_at, delivery.data),
                    attempts=delivery.attempts,
                    created_at=delivery.created_at,
                    url=endpoint.url,
                    secrets=signing_secrets(endpoint),
                )
                for delivery, endpoint in session.execute(statement).all()
            ]

    def attempted(self, id: str, result: str, *, delivered: bool, next_at: float | None) -> None:
        """Note one attempt.

        Args:
            result: what came of it, for people.
            next_at: when to try again; None: never, it was delivered or is given up.
        """
        with self._database.write() as session:
            row = session.get(WebhookDelivery, id)
            if row is None:  # its endpoint was deleted meanwhile
                return
            row.attempts += 1
            row.last_result = result
            if next_at is not None:
                row.next_at = next_at
            else:
                row.settled_at = now()
                row.status = "delivered" if delivered else "given_up"

    def sweep(self) -> int:
        """Forget the deliveries that were settled a month ago; how many there were."""
        with self._database.write() as session:
            return affected(session, delete(WebhookDelivery).where(WebhookDelivery.settled_at < now() - KEPT_SECONDS))


def event_body(event_id: str, type: str, created_at: float, data: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent: OpenAI's event object."""
    return {"id": event_id, "object": "event", "created_at": int(created_at), "type": type, "data": dict(data)}


def new_secret() -> str:
    """256 random bits as Standard Webhooks writes them."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signing_secrets(endpoint: WebhookEndpoint) -> list[str]:
    """The secrets that a delivery is signed with now: the newest first."""
    old = endpoint.old_secret if (endpoint.old_secret_until or 0.0) > now() else None
    return [endpoint.secret] if old is None else [endpoint.secret, old]


def _require(session: Session, id: str, actor_id: str) -> WebhookEndpoint:
    row = session.get(WebhookEndpoint, id)
    if row is None or row.actor_id != actor_id:
        raise NotFound(f"There is no webhook endpoint {id!r}.", param="id", code="webhook_endpoint_not_found")
    return row
