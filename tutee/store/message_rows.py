"""From rows to `StoredMessage`s: one query for the messages and at most three for what hangs on them, whatever their
number.

The statements are built once for each way to choose messages: building one takes far longer than running it, and every
request of a chat comes through here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, case, exists, func, select
from sqlalchemy.orm import Session, aliased

from tutee.store.records import StoredMessage, VersionRef
from tutee.store.schema import (
    Actor,
    Blob,
    Conversation,
    Feedback,
    Generation,
    GenerationChunk,
    Message,
    ModelVersion,
    Presentation,
    PresentationItem,
)


@cache
def not_superseded() -> ColumnElement[bool]:
    """Condition on `Feedback`: no newer event replaces this one."""
    newer = aliased(Feedback)
    return ~exists().where(newer.supersedes == Feedback.id)


class Choice:
    """Which messages to load: a condition on `Message` with the parameter `key`, and the statements it makes."""

    def __init__(self, which: ColumnElement[bool]) -> None:
        self.messages = _messages().where(which)
        self.presentations = _presentations().where(which)
        self.feedback = _feedback().where(which)
        self.pieces = _pieces().where(which)


def _messages() -> Select[*tuple[Any, ...]]:
    return (
        select(
            Message.id,
            Message.conversation_id,
            Message.parent_id,
            Message.role,
            Message.state,
            Message.sibling_index,
            Message.created_at,
            Message.generation_id,
            Message.edited_from,
            Conversation.actor_id.label("owner_id"),
            Blob.data.label("data"),
            Actor.handle.label("author"),
            Generation.finish_reason.label("finish_reason"),
            ModelVersion.id.label("version_id"),
            ModelVersion.number.label("number"),
            ModelVersion.name.label("name"),
            _sibling_count().label("sibling_count"),
        )
        .join(Conversation, Conversation.id == Message.conversation_id)
        .outerjoin(Blob, Blob.sha256 == Message.blob_sha)
        .outerjoin(Actor, Actor.id == Message.author_actor_id)
        .outerjoin(Generation, Generation.message_id == Message.id)
        .outerjoin(ModelVersion, ModelVersion.id == Generation.version_id)
        .order_by(Message.created_at, Message.sibling_index, Message.id)
    )


def _sibling_count() -> ColumnElement[int]:
    """Each half finds its siblings by an index."""
    sibling = aliased(Message)
    count = select(func.count()).select_from(sibling).correlate(Message)
    first_turns = count.where(sibling.conversation_id == Message.conversation_id, sibling.parent_id.is_(None))
    others = count.where(sibling.parent_id == Message.parent_id)
    return case((Message.parent_id.is_(None), first_turns.scalar_subquery()), else_=others.scalar_subquery())


def _presentations() -> Select[*tuple[Any, ...]]:
    judged = exists().where(
        Feedback.presentation_id == Presentation.id, Feedback.kind.in_(("compare", "rank")), not_superseded()
    )
    return (
        select(Message.id, Presentation.id, Presentation.blind, judged)
        .join(Generation, Generation.message_id == Message.id)
        .join(PresentationItem, PresentationItem.generation_id == Generation.id)
        .join(Presentation, Presentation.id == PresentationItem.presentation_id)
        .order_by(Presentation.created_at, Presentation.id)
    )


def _feedback() -> Select[*tuple[Any, ...]]:
    return (
        select(Feedback.id, Feedback.kind, Feedback.message_id, Feedback.payload, Feedback.reasons, Feedback.comment)
        .join(Message, Message.id == Feedback.message_id)
        .where(Feedback.actor_id == bindparam("viewer"), Feedback.kind.in_(("thumb", "edit")), not_superseded())
    )


def _pieces() -> Select[*tuple[Any, ...]]:
    return (
        select(Message.id, GenerationChunk.text)
        .join(Generation, Generation.message_id == Message.id)
        .join(GenerationChunk, GenerationChunk.generation_id == Generation.id)
        .order_by(GenerationChunk.seq)
    )


ONE = Choice(Message.id == bindparam("key"))
MANY = Choice(Message.id.in_(bindparam("key", expanding=True)))
CONVERSATION = Choice(Message.conversation_id == bindparam("key"))
CONVERSATIONS = Choice(Message.conversation_id.in_(bindparam("key", expanding=True)))


@dataclass(frozen=True)
class _Shown:
    presentation_id: str
    blind: bool
    """Shown blind at least once without a vote yet."""


def load(session: Session, choice: Choice, key: str | Sequence[str], viewer_id: str | None) -> list[StoredMessage]:
    """The messages that `choice` and `key` name, parents before children.

    Args:
        viewer_id: whose thumbs and corrections to show; None shows nobody's.
    """
    return [message for message, _ in load_owned(session, choice, key, viewer_id)]


def load_owned(
    session: Session, choice: Choice, key: str | Sequence[str], viewer_id: str | None
) -> list[tuple[StoredMessage, str]]:
    """As `load`, each with the id of the actor whose conversation it is in."""
    rows = session.execute(choice.messages, {"key": key}).all()
    answers = any(row.generation_id is not None for row in rows)
    judged = viewer_id is not None and any(row.role == "assistant" for row in rows)
    shown = _shown(session.execute(choice.presentations, {"key": key})) if answers else {}
    said = _said(session.execute(choice.feedback, {"key": key, "viewer": viewer_id})) if judged else {}
    partial = _joined(session.execute(choice.pieces, {"key": key})) if any(row.data is None for row in rows) else {}
    found = {row.id: (_message(row, shown.get(row.id), said.get(row.id, {}), partial), row.owner_id) for row in rows}
    return [found[message.id] for message in _parents_first(message for message, _ in found.values())]


def _message(
    row: Any, seen: _Shown | None, said: Mapping[str, Mapping[str, Any]], partial: Mapping[str, bytes]
) -> StoredMessage:
    version = None if row.version_id is None else VersionRef(row.version_id, row.number, row.name)
    return StoredMessage(
        id=row.id,
        conversation_id=row.conversation_id,
        parent_id=row.parent_id,
        role=row.role,
        content=(row.data if row.data is not None else partial.get(row.id, b"")).decode("utf-8", "replace"),
        state=row.state,
        sibling_index=row.sibling_index,
        sibling_count=row.sibling_count,
        created_at=row.created_at,
        author=row.author,
        generation_id=row.generation_id,
        version=None if seen is not None and seen.blind else version,
        finish_reason=row.finish_reason,
        presentation_id=None if seen is None else seen.presentation_id,
        blind=seen is not None and seen.blind,
        original_id=row.edited_from,
        thumb=said.get("thumb"),
        edit=said.get("edit"),
    )


def _shown(rows: Iterable[Any]) -> dict[str, _Shown]:
    shown: dict[str, _Shown] = {}
    for message_id, presentation_id, blind, done in rows:
        before = shown.get(message_id)
        shown[message_id] = _Shown(presentation_id, (before is not None and before.blind) or (blind and not done))
    return shown


def _said(rows: Iterable[Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row.kind == "edit":
            found[row.message_id]["edit"] = {"content": row.payload["content"], "feedback_id": row.id}
        elif row.payload["value"] != 0:
            found[row.message_id]["thumb"] = {
                "value": row.payload["value"],
                "reasons": row.reasons,
                "comment": row.comment,
                "feedback_id": row.id,
            }
    return found


def _joined(rows: Iterable[Any]) -> dict[str, bytes]:
    pieces: dict[str, list[bytes]] = defaultdict(list)
    for message_id, text in rows:
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
