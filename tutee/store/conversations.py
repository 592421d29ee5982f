"""Conversations: make, list, search, change, delete. Every way in names the actor; what is not theirs is NotFound."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from sqlalchemy import Select, cast, exists, func, literal, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs, erasing
from tutee.store.actors import require_actor
from tutee.store.database import Database
from tutee.store.paging import paginate
from tutee.store.records import Page, StoredConversation
from tutee.store.schema import Blob, Conversation, Erasure, Message, now


class _Unset(Enum):
    UNSET = 0


UNSET: Final = _Unset.UNSET
"""Left as it is; None is a value of its own (no title, no override of consent)."""


class Conversations:
    """Trees of messages, each owned by one actor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, actor_id: str, title: str | None = None, system: str | None = None, temporary: bool = False
    ) -> StoredConversation:
        """A new, empty conversation.

        Raises:
            NotFound: no such actor.
            InvalidInput: a temporary conversation, which is never stored (code temporary_not_stored).
        """
        if temporary:
            raise InvalidInput(
                "A temporary conversation is never stored: keep it in memory.",
                param="temporary",
                code="temporary_not_stored",
            )
        with self._database.write() as session:
            require_actor(session, actor_id)
            sha = None if system is None else blobs.put_text(session, system)
            row = Conversation(id=new_id("conv"), actor_id=actor_id, title=title, system_sha=sha)
            row.created_at = row.updated_at = now()
            session.add(row)
            session.flush()
            return _record(row, system)

    def get(self, id: str, actor_id: str | None) -> StoredConversation:
        """The conversation.

        Raises:
            NotFound: no such conversation, or somebody else's.
        """
        with self._database.read() as session:
            row = session.execute(_with_system().where(Conversation.id == id)).first()
            if row is None or actor_id not in (None, row[0].actor_id):
                raise _not_found(id)
            return _record(row[0], _decode(row[1]))

    def get_many(self, ids: Iterable[str]) -> dict[str, StoredConversation]:
        """Those of `ids` that exist, with no owner check: for what reads across people."""
        found = {}
        with self._database.read() as session:
            for batch in blobs.batched(ids):
                for row, system in session.execute(_with_system().where(Conversation.id.in_(batch))):
                    found[row.id] = _record(row, _decode(system))
        return found

    def list(
        self, actor_id: str, limit: int = 20, after: str | None = None, query: str | None = None
    ) -> Page[StoredConversation]:
        """The actor's conversations, the last touched first.

        Args:
            query: only those with this text in the title or a message; ASCII letters match in either case.
        """
        statement = select(Conversation).where(Conversation.actor_id == actor_id)
        with self._database.read() as session:
            if query and query.strip():
                statement = statement.where(_mentions(session, query.strip()))
            page = paginate(session, statement, Conversation.updated_at, Conversation.id, limit=limit, after=after)
            shas = {row.system_sha for row in page if row.system_sha is not None}
            found = session.scalars(select(Blob).where(Blob.sha256.in_(shas)))
            systems = {blob.sha256: _decode(blob.data) for blob in found}
            return Page([_record(row, systems.get(row.system_sha or "")) for row in page], page.has_more)

    def update(
        self,
        id: str,
        actor_id: str,
        *,
        title: str | _Unset | None = UNSET,
        train: bool | _Unset | None = UNSET,
        head_message_id: str | _Unset | None = UNSET,
    ) -> StoredConversation:
        """Change only the fields that are given, so that two tabs cannot undo each other's.

        Raises:
            NotFound: no such conversation or somebody else's; a head that is no message of it (param head_message_id).
        """
        with self._database.write() as session:
            row = require_conversation(session, id, actor_id)
            if not isinstance(title, _Unset):
                row.title = title
            if not isinstance(train, _Unset):
                row.train = train
            if not isinstance(head_message_id, _Unset):
                head = None if head_message_id is None else session.get(Message, head_message_id)
                if head_message_id is not None and (head is None or head.conversation_id != id):
                    raise NotFound(f"There is no message {head_message_id!r} here.", param="head_message_id")
                row.head_message_id = head_message_id
            row.updated_at = now()
            blob = None if row.system_sha is None else session.get(Blob, row.system_sha)
            return _record(row, None if blob is None else _decode(blob.data))

    def delete(self, id: str, actor_id: str) -> Erasure:
        """Delete the conversation, its messages and the feedback on them, out of snapshots too.

        Returns:
            The tombstone, which names the versions that had learned from it.

        Raises:
            NotFound: no such conversation, or somebody else's.
        """
        with self._database.write(lock=f"conversation:{id}") as session:
            require_conversation(session, id, actor_id)
            return erasing.erase_conversations(session, [id], actor_id)


def require_conversation(session: Session, id: str, actor_id: str | None) -> Conversation:
    """The row, or NotFound when it is not there or not the actor's."""
    row = session.get(Conversation, id)
    if row is None or actor_id not in (None, row.actor_id):
        raise _not_found(id)
    return row


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no conversation {id!r}.", param="conversation_id", code="conversation_not_found")


def _with_system() -> Select[Conversation, bytes]:
    return select(Conversation, Blob.data).outerjoin(Blob, Blob.sha256 == Conversation.system_sha)


def _mentions(session: Session, query: str):  # type: ignore[no-untyped-def]  # an SQL condition of no nameable type
    pattern = "%" + query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    if session.get_bind().dialect.name == "postgresql":
        # texts lie in bytea, which may hold what a Postgres text cannot: compare both sides in the escaped writing
        content = func.encode(Blob.data, "escape")
        wanted = func.encode(literal(query.encode("utf-8", "replace")), "escape")
        found = func.strpos(func.lower(content), func.lower(wanted)) > 0
    else:
        found = cast(Blob.data, Text).ilike(pattern, escape="\\")
    in_message = exists().where(Message.conversation_id == Conversation.id, Message.blob_sha == Blob.sha256, found)
    return or_(Conversation.title.ilike(pattern, escape="\\"), in_message)


def _decode(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8")


def _record(row: Conversation, system: str | None) -> StoredConversation:
    return StoredConversation(
        id=row.id,
        actor_id=row.actor_id,
        title=row.title,
        system=system,
        train=row.train,
        head_message_id=row.head_message_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
