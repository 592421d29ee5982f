"""Messages: add to the tree, read one, the whole tree, or the path from the root to a message.

Whatever is asked for comes in a constant number of queries (`message_rows`), however many messages there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import CTE, String, bindparam, func, literal, select, update
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs
from tutee.store.conversations import require_conversation
from tutee.store.database import Database
from tutee.store.message_rows import CONVERSATION, CONVERSATIONS, MANY, ONE, load, load_owned
from tutee.store.records import StoredMessage
from tutee.store.schema import Actor, Blob, Conversation, Message, now, table

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
        edited_from: str | None = None,
        *,
        head: bool = True,
        title: str | None = None,
    ) -> StoredMessage:
        """Add a turn under `parent_id` (None: at the root). A parent's second child is a sibling of the first.

        Args:
            content: the text; None only for an answer that will stream (`state="streaming"`).
            author_actor_id: who wrote it, and must own the conversation; None: the model.
            edited_from: the message that this one corrects; the original stays.
            head: make it the conversation's head, the leaf that a page opens at.
            title: names the conversation if it has no title yet.

        Raises:
            NotFound: no such conversation, or not the author's; a parent or original that is not in it.
            InvalidInput: an unknown role or state, or content that does not fit the state.
        """
        _check(role, state, content)
        with self._database.write(lock=f"conversation:{conversation_id}") as session:
            place = find_place(session, conversation_id, parent_id, author_actor_id)
            _require_inside(session, conversation_id, edited_from, "edited_from")
            data = None if content is None else content.encode("utf-8", "replace")
            sha = None if data is None else blobs.put(session, data)
            message = place.message(role, (data or b"").decode(), state, by_person=author_actor_id is not None)
            insert(session, message, sha, author_actor_id, edited_from)
            touch(session, message, head=head, title=title)
            return load(session, ONE, message.id, None)[0] if edited_from else message

    def get(self, id: str, actor_id: str | None) -> StoredMessage:
        """The message, with the feedback that `actor_id` gave.

        Raises:
            NotFound: no such message, or in somebody else's conversation.
        """
        return self.get_all([id], actor_id)[0]

    def get_all(self, ids: Iterable[str], actor_id: str | None) -> list[StoredMessage]:
        """These messages in this order, as `get`."""
        wanted = list(ids)
        with self._database.read() as session:
            if len(wanted) == 1:
                found = load_owned(session, ONE, wanted[0], actor_id)
            else:
                found = load_owned(session, MANY, wanted, actor_id)
        known = {message.id: message for message, owner_id in found if actor_id in (None, owner_id)}
        for id in wanted:
            if id not in known:
                raise _not_found(id)
        return [known[id] for id in wanted]

    def tree(self, conversation_id: str, actor_id: str | None = None) -> list[StoredMessage]:
        """Every message of the conversation, parents before children, siblings in order.

        Raises:
            NotFound: no such conversation, or somebody else's.
        """
        with self._database.read() as session:
            require_conversation(session, conversation_id, actor_id)
            return load(session, CONVERSATION, conversation_id, actor_id)

    def trees(self, conversation_ids: Iterable[str]) -> dict[str, list[StoredMessage]]:
        """For each of these conversations that has messages, all of them, parents before children; no owner check."""
        found: dict[str, list[StoredMessage]] = {}
        with self._database.read() as session:
            for batch in blobs.batched(dict.fromkeys(conversation_ids)):
                for message in load(session, CONVERSATIONS, batch, None):
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

    def said(self, id: str) -> list[tuple[str, str]]:
        """(role, text) from the root down to this finished message: what a model is asked; no owner check."""
        with self._database.read() as session:
            return [(role, data.decode("utf-8")) for role, data in session.execute(_SAID, {"ids": [id]})]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next message under a parent goes."""

    conversation_id: str
    parent_id: str | None
    owner: str
    """Handle of the conversation's owner."""
    sibling_index: int
    siblings: int

    def message(self, role: str, content: str, state: str, by_person: bool, nth: int = 0) -> StoredMessage:
        """A fresh message here; `nth` of several that are added together."""
        return StoredMessage(
            id=new_id("msg"),
            conversation_id=self.conversation_id,
            parent_id=self.parent_id,
            role=role,
            content=content,
            state=state,
            sibling_index=self.sibling_index + nth,
            sibling_count=self.siblings + nth + 1,
            created_at=now(),
            author=self.owner if by_person else None,
            generation_id=None,
            version=None,
            finish_reason=None,
            presentation_id=None,
            blind=False,
            original_id=None,
        )


_OWNER = (
    select(Conversation.actor_id, Actor.handle)
    .join(Actor, Actor.id == Conversation.actor_id)
    .where(Conversation.id == bindparam("id"))
)
_SIBLINGS = select(func.coalesce(func.max(Message.sibling_index) + 1, 0), func.count()).where(
    Message.conversation_id == bindparam("conversation"),
    Message.parent_id.is_not_distinct_from(bindparam("parent", type_=String)),
)
_INSERT = table(Message).insert()
_TOUCH = (
    update(table(Conversation))
    .where(table(Conversation).c.id == bindparam("conversation"))
    .values(
        updated_at=bindparam("moment"),
        head_message_id=func.coalesce(bindparam("head", type_=String), table(Conversation).c.head_message_id),
        title=func.coalesce(table(Conversation).c.title, bindparam("name", type_=table(Conversation).c.title.type)),
    )
)
_REQUIRED = (
    select(Message, Conversation.actor_id)
    .join(Conversation, Conversation.id == Message.conversation_id)
    .where(Message.id == bindparam("id"))
)


def find_place(session: Session, conversation_id: str, parent_id: str | None, actor_id: str | None) -> Place:
    """Where to add under `parent_id`; NotFound as `Messages.add`."""
    owned = session.execute(_OWNER, {"id": conversation_id}).first()
    if owned is None or actor_id not in (None, owned.actor_id):
        require_conversation(session, conversation_id, actor_id)  # says what is wrong
    assert owned is not None
    _require_inside(session, conversation_id, parent_id, "parent_id")
    index, count = session.execute(_SIBLINGS, {"conversation": conversation_id, "parent": parent_id}).one()
    return Place(conversation_id, parent_id, owned.handle, index, count)


def insert(
    session: Session,
    message: StoredMessage,
    sha: str | None,
    author_actor_id: str | None = None,
    edited_from: str | None = None,
) -> None:
    """Add the row of a message whose text is the blob `sha`."""
    fields = ("id", "conversation_id", "parent_id", "role", "state", "sibling_index", "generation_id", "created_at")
    row = {name: getattr(message, name) for name in fields}
    session.execute(_INSERT, row | {"blob_sha": sha, "author_actor_id": author_actor_id, "edited_from": edited_from})


def touch(session: Session, message: StoredMessage, *, head: bool, title: str | None = None) -> None:
    """Its conversation was just used: move it to the top, and its head to this message if asked."""
    session.execute(
        _TOUCH,
        {
            "conversation": message.conversation_id,
            "moment": message.created_at,
            "head": message.id if head else None,
            "name": title,
        },
    )


def require_message(session: Session, id: str, actor_id: str | None, param: str = "message_id") -> Message:
    """The row, or NotFound when it is not there or in somebody else's conversation."""
    row = session.execute(_REQUIRED, {"id": id}).first()
    if row is None or actor_id not in (None, row[1]):
        raise _not_found(id, param)
    return row[0]


def _not_found(id: str, param: str = "message_id") -> NotFound:
    return NotFound(f"There is no message {id!r}.", param=param, code="message_not_found")


def _above() -> CTE:
    """(leaf, id, parent_id, height) of every message from each of the parameter `ids` up to its root."""
    above = (
        select(Message.id.label("leaf"), Message.id, Message.parent_id, literal(0).label("height"))
        .where(Message.id.in_(bindparam("ids", expanding=True)))
        .cte("above", recursive=True)
    )
    return above.union_all(
        select(above.c.leaf, Message.id, Message.parent_id, above.c.height + 1).join(
            Message, Message.id == above.c.parent_id
        )
    )


_ABOVE = _above()
_STEPS = select(_ABOVE.c.leaf, _ABOVE.c.id).order_by(_ABOVE.c.leaf, _ABOVE.c.height.desc())
_SAID = (
    select(Message.role, Blob.data)
    .join(_ABOVE, _ABOVE.c.id == Message.id)
    .join(Blob, Blob.sha256 == Message.blob_sha)
    .order_by(_ABOVE.c.height.desc())
)


def _paths(session: Session, ids: Iterable[str], actor_id: str | None) -> dict[str, list[StoredMessage]]:
    steps = session.execute(_STEPS, {"ids": list(ids)}).all()
    messages: dict[str, StoredMessage] = {}
    for batch in blobs.batched(dict.fromkeys(step.id for step in steps)):
        messages.update({message.id: message for message in load(session, MANY, batch, actor_id)})
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
