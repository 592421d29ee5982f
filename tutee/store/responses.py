"""OpenAI's responses that are kept, with their items, and the thread that leads from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.store import openai_conversations, response_events
from tutee.store.actors import require_actor
from tutee.store.database import Database
from tutee.store.paging import Order, paginate
from tutee.store.records import Page
from tutee.store.schema import Response, ResponseItem, now
from tutee.store.webhooks import announce

Item = Mapping[str, Any]
"""As OpenAI's JSON, with its id."""
UNFINISHED = ("queued", "in_progress")
ANSWERED = ("completed", "incomplete")
LONGEST_THREAD = 1000
"""Responses that one can build upon; far more than any context here holds."""


class Responses:
    """Kept responses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        actor_id: str,
        body: Mapping[str, Any],
        items: Sequence[Item],
        *,
        previous_id: str | None = None,
        conversation_id: str | None = None,
    ) -> Response:
        """Keep a response that has begun, with what was said to it.

        Args:
            body: the response object; `id`, `model` and `status` are taken from it.

        Raises:
            NotFound: no such actor.
        """
        with self._database.write() as session:
            require_actor(session, actor_id)
            row = Response(
                id=body["id"],
                actor_id=actor_id,
                previous_id=previous_id,
                conversation_id=conversation_id,
                model=body["model"],
                status=body["status"],
                body=dict(body),
                created_at=float(body["created_at"]),
            )
            session.add(row)
            session.flush()
            _add_items(session, row.id, "input", items, first=0)
            return row

    def finish(self, id: str, body: Mapping[str, Any], events: tuple[int, Sequence[bytes]] = (0, ())) -> bool:
        """Keep how it ended, with its output; what was said goes to its conversation too, if it has one.

        Args:
            events: the last ones, as in `add_events`.

        Returns:
            Whether it is still there.
        """
        with self._database.write(lock="openai_conversation") as session:
            row = session.get(Response, id)
            if row is None:
                return False
            row.status, row.body, row.ended_at = body["status"], dict(body), now()
            announce(session, row.actor_id, f"response.{row.status}", id)
            response_events.keep(session, id, *events)
            said = _said(session, id)
            _add_items(session, id, "output", body["output"], first=len(said))
            if row.conversation_id is not None and body["status"] != "failed":
                items = [*(each.item for each in said), *body["output"]]
                openai_conversations.append(session, row.conversation_id, items)
            return True

    def get(self, id: str, actor_id: str | None) -> Response:
        """The response.

        Raises:
            NotFound: no such response, or somebody else's.
        """
        with self._database.read() as session:
            return _require(session, id, actor_id)

    def add_events(self, id: str, first: int, events: Sequence[bytes]) -> None:
        """Keep events that were told (JSON, one line each; `first` is the number of the first), if it is still there.

        Does not wait for the disk: what a power cut takes were only words on their way.
        """
        with self._database.write(durable=False) as session:
            if session.get(Response, id) is not None:
                response_events.keep(session, id, first, events)

    def events(self, id: str, after: int = -1) -> list[bytes]:
        """The kept events after number `after`, in order; of one that has ended, the last one at least."""
        with self._database.read() as session:
            row = session.get(Response, id)
            last = response_events.next_number(session, id) - 1
            if row is not None and row.status not in UNFINISHED:
                after = min(after, last - 1)
            return response_events.told(session, id, after)

    def answered(
        self, actor_id: str, ended_before: float, model: str | None = None, limit: int = 20, after: str | None = None
    ) -> Page[Response]:
        """Responses with an answer that ended before some moment, in the order of their ends, which never changes."""
        statement = select(Response).where(
            Response.actor_id == actor_id, Response.status.in_(ANSWERED), Response.ended_at < ended_before
        )
        if model is not None:
            statement = statement.where(Response.model == model)
        with self._database.read() as session:
            return paginate(session, statement, Response.ended_at, Response.id, limit=limit, after=after, order="asc")

    def delete(self, id: str, actor_id: str | None) -> None:
        """Forget a response with its items; what it said in a conversation stays there.

        Raises:
            NotFound: no such response, or somebody else's.
        """
        with self._database.write() as session:
            _require(session, id, actor_id)
            session.execute(delete(Response).where(Response.id == id))

    def input_items(
        self, id: str, actor_id: str | None, limit: int = 20, after: str | None = None, order: Order = "desc"
    ) -> Page[ResponseItem]:
        """What was said to a response itself, without what came before it.

        Raises:
            NotFound: no such response, or somebody else's. InvalidInput: as `paginate`.
        """
        with self._database.read() as session:
            _require(session, id, actor_id)
            statement = _items(id).where(ResponseItem.kind == "input")
            return paginate(
                session, statement, ResponseItem.place, ResponseItem.id, limit=limit, after=after, order=order
            )

    def asked(self, id: str) -> list[dict[str, Any]]:
        """All that was said to a response itself, in order; nothing if it is gone."""
        with self._database.read() as session:
            return [each.item for each in _said(session, id) if each.kind == "input"]

    def thread(self, id: str, actor_id: str | None) -> list[dict[str, Any]]:
        """All items up to and with a response's output, from the first response of its thread on.

        Raises:
            InvalidInput: it, or one before it, is not there, is somebody else's, or has not ended (code
                previous_response_not_found); the thread is too long.
        """
        with self._database.read() as session:
            ids: list[str] = []
            current: str | None = id
            while current is not None:
                row = session.get(Response, current)
                if row is None or actor_id not in (None, row.actor_id):
                    raise _missing_link(f"Previous response with id '{current}' not found.")
                if row.status in UNFINISHED:
                    raise _missing_link(f"The response '{current}' has not ended yet.")
                if len(ids) == LONGEST_THREAD:
                    raise _missing_link(f"More than {LONGEST_THREAD} responses lead to this one.")
                ids.append(current)
                current = row.previous_id
            return [each.item for one in reversed(ids) for each in _said(session, one)]

    def find_item(self, id: str, actor_id: str) -> dict[str, Any] | None:
        """An item of any of the actor's responses, by its id."""
        with self._database.read() as session:
            statement = select(ResponseItem).join(Response).where(ResponseItem.id == id, Response.actor_id == actor_id)
            found = session.scalars(statement.limit(1)).first()
            return None if found is None else found.item

    def interrupted(self, error: Mapping[str, Any]) -> int:
        """Mark those that nobody is working on any more as failed with `error`; how many there were."""
        with self._database.write() as session:
            rows = list(session.scalars(select(Response).where(Response.status.in_(UNFINISHED))))
            for row in rows:
                row.status, row.body = "failed", row.body | {"status": "failed", "error": dict(error)}
                row.ended_at = now()
                announce(session, row.actor_id, "response.failed", row.id)
                number = response_events.next_number(session, row.id)
                if number:  # it was told of, so whoever goes on reading must hear how it ended
                    end = {"type": "response.failed", "response": row.body, "sequence_number": number}
                    response_events.keep(session, row.id, number, [msgspec.json.encode(end)])
            return len(rows)


def _items(response_id: str) -> Any:
    return select(ResponseItem).where(ResponseItem.response_id == response_id)


def _said(session: Session, response_id: str) -> list[ResponseItem]:
    return list(session.scalars(_items(response_id).order_by(ResponseItem.place)))


def _add_items(session: Session, response_id: str, kind: str, items: Sequence[Item], first: int) -> None:
    session.add_all(
        ResponseItem(response_id=response_id, place=first + i, id=item["id"], kind=kind, item=dict(item))
        for i, item in enumerate(items)
    )


def _require(session: Session, id: str, actor_id: str | None) -> Response:
    row = session.get(Response, id)
    if row is None or actor_id not in (None, row.actor_id):
        raise NotFound(f"Response with id '{id}' not found.", param="response_id", code="response_not_found")
    return row


def _missing_link(message: str) -> InvalidInput:
    return InvalidInput(message, param="previous_response_id", code="previous_response_not_found")
