"""From rows to `StoredMessage`s: one query for the messages and four for what hangs on them, whatever their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session, aliased

from tutee.store.records import StoredMessage, VersionRef
from tutee.store.schema import (
    Actor,
    Blob,
    Feedback,
    Generation,
    GenerationChunk,
    Message,
    ModelVersion,
    Presentation,
    PresentationItem,
)


@dataclass(frozen=True)
class _Shown:
    presentation_id: str
    blind: bool
    """Shown blind at least once without a vote yet."""


def load(session: Session, which: ColumnElement[bool], viewer_id: str | None) -> list[StoredMessage]:
    """The messages for which `which` holds, parents before children.

    Args:
        which: a condition on `Message`.
        viewer_id: whose thumbs and corrections to show; None shows nobody's.
    """
    statement = (
        select(
            Message,
            Blob.data.label("data"),
            Actor.handle.label("author"),
            Generation.finish_reason.label("finish_reason"),
            ModelVersion.id.label("version_id"),
            ModelVersion.number.label("number"),
            ModelVersion.name.label("name"),
        )
        .outerjoin(Blob, Blob.sha256 == Message.blob_sha)
        .outerjoin(Actor, Actor.id == Message.author_actor_id)
        .outerjoin(Generation, Generation.message_id == Message.id)
        .outerjoin(ModelVersion, ModelVersion.id == Generation.version_id)
        .where(which)
        .order_by(Message.created_at, Message.sibling_index, Message.id)
    )
    rows = session.execute(statement).all()
    siblings = _sibling_counts(session, which)
    shown = _presentations(session, which)
    feedback = _feedback(session, which, viewer_id)
    partial = _streamed(session, which)
    found = []
    for row in rows:
        message: Message = row[0]
        seen = shown.get(message.id)
        version = None if row.version_id is None else VersionRef(row.version_id, row.number, row.name)
        found.append(
            StoredMessage(
                id=message.id,
                conversation_id=message.conversation_id,
                parent_id=message.parent_id,
                role=message.role,
                content=(row.data if row.data is not None else partial.get(message.id, b"")).decode("utf-8", "replace"),
                state=message.state,
                sibling_index=message.sibling_index,
                sibling_count=siblings[message.conversation_id, message.parent_id],
                created_at=message.created_at,
                author=row.author,
                generation_id=message.generation_id,
                version=None if seen is not None and seen.blind else version,
                finish_reason=row.finish_reason,
                presentation_id=None if seen is None else seen.presentation_id,
                blind=seen is not None and seen.blind,
                original_id=message.edited_from,
                thumb=feedback[message.id].get("thumb"),
                edit=feedback[message.id].get("edit"),
            )
        )
    return _parents_first(found)


def not_superseded() -> ColumnElement[bool]:
    """Condition on `Feedback`: no newer event replaces this one."""
    newer = aliased(Feedback)
    return ~exists().where(newer.supersedes == Feedback.id)


def _sibling_counts(session: Session, which: ColumnElement[bool]) -> dict[tuple[str, str | None], int]:
    sibling = aliased(Message)
    groups = select(Message.conversation_id, Message.parent_id).where(which).distinct().subquery()
    statement = (
        select(sibling.conversation_id, sibling.parent_id, func.count())
        .join(
            groups,
            (groups.c.conversation_id == sibling.conversation_id)
            & (
                (groups.c.parent_id == sibling.parent_id) | (groups.c.parent_id.is_(None) & sibling.parent_id.is_(None))
            ),
        )
        .group_by(sibling.conversation_id, sibling.parent_id)
    )
    return {(conversation, parent): count for conversation, parent, count in session.execute(statement)}


def _presentations(session: Session, which: ColumnElement[bool]) -> dict[str, _Shown]:
    judged = exists().where(
        Feedback.presentation_id == Presentation.id, Feedback.kind.in_(("compare", "rank")), not_superseded()
    )
    statement = (
        select(Message.id, Presentation.id, Presentation.blind, judged)
        .join(Generation, Generation.message_id == Message.id)
        .join(PresentationItem, PresentationItem.generation_id == Generation.id)
        .join(Presentation, Presentation.id == PresentationItem.presentation_id)
        .where(which)
        .order_by(Presentation.created_at, Presentation.id)
    )
    shown: dict[str, _Shown] = {}
    for message_id, presentation_id, blind, done in session.execute(statement):
        before = shown.get(message_id)
        shown[message_id] = _Shown(presentation_id, (before is not None and before.blind) or (blind and not done))
    return shown


def _feedback(
    session: Session, which: ColumnElement[bool], viewer_id: str | None
) -> Mapping[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    if viewer_id is None:
        return found
    statement = (
        select(Feedback)
        .join(Message, Message.id == Feedback.message_id)
        .where(which, Feedback.actor_id == viewer_id, Feedback.kind.in_(("thumb", "edit")), not_superseded())
    )
    for row in session.scalars(statement):
        if row.kind == "edit":
            found[row.message_id or ""]["edit"] = {"content": row.payload["content"], "feedback_id": row.id}
        elif row.payload["value"] != 0:
            found[row.message_id or ""]["thumb"] = {
                "value": row.payload["value"],
                "reasons": row.reasons,
                "comment": row.comment,
                "feedback_id": row.id,
            }
    return found


def _streamed(session: Session, which: ColumnElement[bool]) -> dict[str, bytes]:
    pieces: dict[str, list[bytes]] = defaultdict(list)
    statement = (
        select(Message.id, GenerationChunk.text)
        .join(Generation, Generation.message_id == Message.id)
        .join(GenerationChunk, GenerationChunk.generation_id == Generation.id)
        .where(which)
        .order_by(GenerationChunk.seq)
    )
    for message_id, text in session.execute(statement):
        pieces[message_id].append(text)
    return {id: b"".join(parts) for id, parts in pieces.items()}


def _parents_first(messages: Iterable[StoredMessage]) -> list[StoredMessage]:
    """Creation order already is parents first; a clock that was set back must not break that."""
    waiting = list(messages)
    inside = {message.id for message in waiting}
    placed: set[str] = set()
    done: list[StoredMessage] = []
    while waiting:
        later = []
        for message in waiting:
            if message.parent_id in placed or message.parent_id not in inside:
                placed.add(message.id)
                done.append(message)
            else:
                later.append(message)
        waiting = later
    return done
