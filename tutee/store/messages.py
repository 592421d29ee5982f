"""Messages: add to the tree, read one, the whole tree, or the path from the root to a message.

Whatever is asked for comes in a constant number of queries (`message_rows`), however many messages there are.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs
from tutee.store.conversations import require_conversation
from tutee.store.database import Database
from tutee.store.message_rows import load
from tutee.store.records import StoredMessage
from tutee.store.schema import Conversation, Message, now

ROLES = ("system", "developer", "user", "assistant", "tool")


class Messages:
    """The turns of all conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        conversation_id: str,
        parent_id: str | None,
        role: str,
        content: str | None,
        author_actor_id: str | None,
        state: str = "complete",
        generation_id: str | None = None,
        edited_from: str | None = None,
        *,
        head: bool = True,
        synthetic: bool = False,
    ) -> StoredMessage:
        """Add a turn under `parent_id` (None: at the root). A parent's second child is a sibling of the first.

        Args:
            content: the text; None only for an answer that will stream (`state="streaming"`).
            author_actor_id: who wrote it, and must own the conversation; None: the model.
            edited_from: the message that this one corrects; the original stays.
            head: make it the conversation's head, the leaf that a page opens at.

        Raises:
            NotFound: no such conversation, or not the author's; a parent or original that is not in it.
            InvalidInput: an unknown role or state, or content that does not fit the state.
        """
        _check(role, state, content)
        with self._database.write(lock=f"conversation:{conversation_id}") as session:
            conversation = require_conversation(session, conversation_id, author_actor_id)
            for param, id in (("parent_id", parent_id), ("edited_from", edited_from)):
                _require_inside(session, conversation_id, id, param)
            message = Message(
                id=new_id("msg"),
                conversation_id=conversation_id,
                parent_id=parent_id,
                role=role,
                blob_sha=None if content is None else blobs.put_text(session, content),
                state=state,
                sibling_index=_next_sibling(session, conversation_id, parent_id),
                author_actor_id=author_actor_id,
                generation_id=generation_id,
                edited_from=edited_from,
                synthetic=synthetic,
                created_at=now(),
            )
            session.add(message)
            session.flush()
            conversation.updated_at = message.created_at
            if head:
                conversation.head_message_id = message.id
            session.flush()
            return load(session, Message.id == message.id, conversation.actor_id)[0]

    def get(self, id: str, actor_id: str | None) -> StoredMessage:
        """The message, with the feedback that `actor_id` gave.

        Raises:
            NotFound: no such message, or in somebody else's conversation.
        """
        with self._database.read() as session:
            require_message(session, id, actor_id)
            return load(session, Message.id == id, actor_id)[0]

    def tree(self, conversation_id: str, actor_id: str | None = None) -> list[StoredMessage]:
        """Every message of the conversation, parents before children, siblings in order.

        Raises:
            NotFound: no such conversation, or somebody else's.
        """
        with self._database.read() as session:
            require_conversation(session, conversation_id, actor_id)
            return load(session, Message.conversation_id == conversation_id, actor_id)

    def trees(self, conversation_ids: Iterable[str]) -> dict[str, list[StoredMessage]]:
        """For each of these conversations that has messages, all of them, parents before children; no owner check."""
        found: dict[str, list[StoredMessage]] = {}
        with self._database.read() as session:
            for batch in blobs.batched(dict.fromkeys(conversation_ids)):
                for message in load(session, Message.conversation_id.in_(batch), None):
                    found.setdefault(message.conversation_id, []).append(message)
        return found

    def path(self, id: str, actor_id: str | None = None) -> list[StoredMessage]:
        """The messages from the root down to `id`.

        Raises:
            NotFound: no such message, or in somebody else's conversation.
        """
        with self._database.read() as session:
            require_message(session, id, actor_id)
            return _paths(session, [id], actor_id)[id]

    def paths(self, ids: Iterable[str]) -> dict[str, list[StoredMessage]]:
        """For each of `ids` that exists, the messages from the root down to it; no owner check."""
        found: dict[str, list[StoredMessage]] = {}
        with self._database.read() as session:
            for batch in blobs.batched(dict.fromkeys(ids)):
                found.update(_paths(session, batch, None))
        return found


def require_message(session: Session, id: str, actor_id: str | None, param: str = "message_id") -> Message:
    """The row, or NotFound when it is not there or in somebody else's conversation."""
    row = session.execute(
        select(Message, Conversation.actor_id)
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(Message.id == id)
    ).first()
    if row is None or actor_id not in (None, row[1]):
        raise NotFound(f"There is no message {id!r}.", param=param, code="message_not_found")
    return row[0]


def _paths(session: Session, ids: Iterable[str], actor_id: str | None) -> dict[str, list[StoredMessage]]:
    wanted = list(ids)
    above = (
        select(Message.id.label("leaf"), Message.id, Message.parent_id, literal(0).label("height"))
        .where(Message.id.in_(wanted))
        .cte("above", recursive=True)
    )
    above = above.union_all(
        select(above.c.leaf, Message.id, Message.parent_id, above.c.height + 1).join(
            Message, Message.id == above.c.parent_id
        )
    )
    steps = session.execute(select(above.c.leaf, above.c.id).order_by(above.c.leaf, above.c.height.desc())).all()
    messages: dict[str, StoredMessage] = {}
    for batch in blobs.batched(dict.fromkeys(step.id for step in steps)):
        messages.update({message.id: message for message in load(session, Message.id.in_(batch), actor_id)})
    paths: dict[str, list[StoredMessage]] = {}
    for step in steps:
        paths.setdefault(step.leaf, []).append(messages[step.id])
    return paths


def _check(role: str, state: str, content: str | None) -> None:
    if role not in ROLES:
        raise InvalidInput(f"'role' must be one of {', '.join(ROLES)}.", param="role", code="invalid_value")
    if state not in ("complete", "streaming"):
        raise InvalidInput("A new message is complete or streaming.", param="state", code="invalid_value")
    if (content is None) != (state == "streaming"):
        raise InvalidInput(
            "A complete message needs content; a streaming one gets it later.", param="content", code="invalid_value"
        )


def _require_inside(session: Session, conversation_id: str, id: str | None, param: str) -> None:
    if id is not None and require_message(session, id, None, param).conversation_id != conversation_id:
        raise NotFound(f"There is no message {id!r} in this conversation.", param=param, code="message_not_found")


def _next_sibling(session: Session, conversation_id: str, parent_id: str | None) -> int:
    return (
        session.scalar(
            select(func.coalesce(func.max(Message.sibling_index) + 1, 0)).where(
                Message.conversation_id == conversation_id, Message.parent_id.is_not_distinct_from(parent_id)
            )
        )
        or 0
    )
