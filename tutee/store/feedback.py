"""Feedback: what people said about answers, as events that are never changed.

A second thumb on the same message is a new row that supersedes the first; `live()` is what counts now. Everything that
can be derived (conversation, message, what was shown) is derived here and never taken from a client.

Payloads by kind (`target` is what a newer event of the same actor and kind replaces):
    thumb     {value: 1 | -1 | 0 (withdrawn)}                    target: the message
    compare   {winner: a | b | tie | both_bad, dwell_ms?}        target: the presentation
    rank      {tiers: [[generation id, …], …]}                   target: the presentation
    edit      {content, message_id?: the corrected sibling}      target: the message
    flag      {category}                                         target: the message
    comment   {}, with `comment`                                 target: the message
    demo      {content?}, on the message that was written        target: the message
    implicit  {action: regenerate | copy | abandon | …}          target: itself (nothing replaces it)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs, erasing
from tutee.store.actors import require_actor
from tutee.store.conversations import require_conversation
from tutee.store.database import Database
from tutee.store.message_rows import not_superseded
from tutee.store.messages import require_message
from tutee.store.paging import paginate
from tutee.store.presentations import require_presentation
from tutee.store.records import Page
from tutee.store.schema import Erasure, Feedback, Message, now

KINDS = ("thumb", "compare", "rank", "edit", "demo", "flag", "comment", "implicit")
WINNERS = ("a", "b", "tie", "both_bad")


class FeedbackEvents:
    """All feedback. Rows are added and erased, never updated."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        kind: str,
        actor_id: str,
        *,
        presentation_id: str | None = None,
        message_id: str | None = None,
        conversation_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        strength: int | None = None,
        confidence: float | None = None,
        reasons: Sequence[str] = (),
        comment: str | None = None,
        client: str | None = None,
    ) -> Feedback:
        """Add an event; it supersedes the actor's live event of the same kind on the same target.

        Args:
            message_id: what is judged, for all kinds but compare and rank.
            presentation_id: what is judged, for compare and rank; otherwise where it was seen (found when None).
            strength: 0 (hardly) to 3 (very).

        Raises:
            NotFound: the message, presentation or conversation is not there, or not the actor's.
            InvalidInput: an unknown kind, or a payload that does not fit it (param `payload.…`).
        """
        data = dict(payload or {})
        check(kind, data, message_id, presentation_id, strength, reasons)
        with self._database.write(lock=f"feedback:{actor_id}") as session:
            require_actor(session, actor_id)
            row = Feedback(
                id=new_id("fb"),
                kind=kind,
                actor_id=actor_id,
                presentation_id=presentation_id,
                message_id=message_id,
                conversation_id=conversation_id,
                payload=data,
                strength=strength,
                confidence=confidence,
                reasons=list(reasons),
                comment=comment,
                client=client,
                created_at=now(),
            )
            derive(session, row)
            row.supersedes = session.scalar(
                select(Feedback.id).where(
                    Feedback.actor_id == actor_id,
                    Feedback.kind == kind,
                    Feedback.target_id == row.target_id,
                    not_superseded(),
                )
            )
            session.add(row)
            return row

    def get(self, id: str, actor_id: str | None = None) -> Feedback:
        """The event.

        Raises:
            NotFound: no such event, erased, or somebody else's.
        """
        with self._database.read() as session:
            return _require(session, id, actor_id)

    def get_many(self, ids: Iterable[str]) -> Sequence[Feedback]:
        """The events with these ids, in their order; erased ones are left out."""
        wanted, found = list(ids), dict[str, Feedback]()
        with self._database.read() as session:
            for batch in blobs.batched(wanted):
                found |= {row.id: row for row in session.scalars(select(Feedback).where(Feedback.id.in_(batch)))}
        return [found[id] for id in wanted if id in found]

    def live(
        self,
        actor_id: str | None = None,
        kind: str | None = None,
        since: float | None = None,
        conversation_id: str | None = None,
    ) -> Sequence[Feedback]:
        """What counts now: the newest event of each (actor, kind, target), oldest first.

        A withdrawn thumb is a live event of value 0. `since` is in unix seconds, exclusive.
        """
        statement = select(Feedback).where(not_superseded()).order_by(Feedback.created_at, Feedback.id)
        if conversation_id is not None:
            statement = statement.where(Feedback.conversation_id == conversation_id)
        with self._database.read() as session:
            return session.scalars(_narrow(statement, actor_id, kind, since)).all()

    def list(
        self,
        actor_id: str | None = None,
        kind: str | None = None,
        since: float | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> Page[Feedback]:
        """All events, superseded ones too, newest first."""
        statement = _narrow(select(Feedback), actor_id, kind, since)
        with self._database.read() as session:
            return paginate(session, statement, Feedback.created_at, Feedback.id, limit=limit, after=after)

    def erase(self, id: str, actor_id: str | None) -> Erasure:
        """Erase an event and all earlier and later ones on the same target by the same actor.

        Returns:
            The tombstone; `tainted_versions` are the versions that learned from it.

        Raises:
            NotFound: no such event, or somebody else's.
        """
        with self._database.write(lock=f"feedback:{actor_id}") as session:
            row = _require(session, id, actor_id)
            return erasing.erase_feedback(session, erasing.chain(session, row), row.actor_id)

    def erasures(self) -> Sequence[Erasure]:
        """All tombstones, oldest first."""
        with self._database.read() as session:
            return session.scalars(select(Erasure).order_by(Erasure.requested_at, Erasure.id)).all()


def check(
    kind: str,
    payload: Mapping[str, Any],
    message_id: str | None,
    presentation_id: str | None,
    strength: int | None,
    reasons: Iterable[str],
) -> None:
    """Refuse an event whose kind, target or payload is not as the module says (InvalidInput)."""
    if kind not in KINDS:
        raise _bad("kind", f"must be one of {', '.join(KINDS)}")
    target, param = (presentation_id, "presentation_id") if kind in ("compare", "rank") else (message_id, "message_id")
    if target is None and kind not in ("demo", "implicit"):
        raise InvalidInput(f"A {kind} needs '{param}'.", param=param, code="missing_required_parameter")
    value = payload.get("value")
    if kind == "thumb" and (isinstance(value, bool) or value not in (1, -1, 0)):
        raise _bad("payload.value", "must be 1, -1 or 0")
    if kind == "compare" and payload.get("winner") not in WINNERS:
        raise _bad("payload.winner", f"must be one of {', '.join(WINNERS)}")
    dwell = payload.get("dwell_ms")
    if dwell is not None and (isinstance(dwell, bool) or not isinstance(dwell, int | float) or dwell < 0):
        raise _bad("payload.dwell_ms", "must be a number of milliseconds, 0 or more")
    if kind == "edit" and not isinstance(payload.get("content"), str):
        raise _bad("payload.content", "must be the corrected text")
    if kind == "flag" and not isinstance(payload.get("category"), str):
        raise _bad("payload.category", "must be a word")
    if strength is not None and strength not in (0, 1, 2, 3):
        raise _bad("strength", "must be 0, 1, 2 or 3")
    if not all(isinstance(reason, str) for reason in reasons):
        raise _bad("reasons", "must be a list of words")


def derive(session: Session, row: Feedback) -> None:
    """Fill in from the database what the target is and what hangs together with it; refuse what is not the actor's."""
    row.target_id = row.id
    if row.presentation_id is not None:
        shown = require_presentation(session, row.presentation_id, row.actor_id)
        if row.kind in ("compare", "rank"):
            _check_answers(row, shown.generation_ids)
            row.target_id, row.message_id = shown.id, None
        elif row.message_id is not None and row.message_id not in shown.message_ids:
            raise NotFound(f"Message {row.message_id!r} is not in that presentation.", param="message_id")
        first = session.get_one(Message, shown.message_ids[0])
        row.conversation_id = first.conversation_id
    if row.message_id is not None:
        message = require_message(session, row.message_id, row.actor_id)
        if row.kind != "implicit":
            row.target_id = message.id
        if row.kind in ("thumb", "edit") and message.role != "assistant":
            raise InvalidInput(f"A {row.kind} is for answers; this is a {message.role} message.", param="message_id")
        row.conversation_id = message.conversation_id
    elif row.conversation_id is not None:
        require_conversation(session, row.conversation_id, row.actor_id)


def _check_answers(row: Feedback, shown: Sequence[str]) -> None:
    if len(shown) < 2:
        raise InvalidInput("Only one answer was shown: there is nothing to compare.", param="presentation_id")
    if row.kind == "rank":
        tiers = row.payload.get("tiers")
        ranked = [id for tier in tiers for id in tier] if isinstance(tiers, list) else []
        if sorted(map(str, ranked)) != sorted(shown):
            raise _bad("payload.tiers", "must hold each answer shown, once")


def _require(session: Session, id: str, actor_id: str | None) -> Feedback:
    row = session.get(Feedback, id)
    if row is None or actor_id not in (None, row.actor_id):
        raise NotFound(f"There is no feedback {id!r}.", param="feedback_id", code="feedback_not_found")
    return row


def _narrow(statement: Any, actor_id: str | None, kind: str | None, since: float | None) -> Any:
    if actor_id is not None:
        statement = statement.where(Feedback.actor_id == actor_id)
    if kind is not None:
        statement = statement.where(Feedback.kind == kind)
    if since is not None:
        statement = statement.where(Feedback.created_at > since)
    return statement


def _bad(param: str, rule: str) -> InvalidInput:
    return InvalidInput(f"'{param}' {rule}.", param=param, code="invalid_value")
