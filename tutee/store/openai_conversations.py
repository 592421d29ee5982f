"""OpenAI's conversations: lists of items that responses read and add to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tutee.errors import NotFound
from tutee.ids import new_id
from tutee.store.actors import require_actor
from tutee.store.database import Database
from tutee.store.paging import Order, paginate
from tutee.store.records import Page
from tutee.store.schema import OpenAIConversation, OpenAIConversationItem

LOCK = "openai_conversation"
"""Whoever adds items holds it: their places are counted."""


class OpenAIConversations:
    """Conversations and their items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, actor_id: str, metadata: Mapping[str, str], items: Sequence[Mapping[str, Any]] = ()
    ) -> OpenAIConversation:
        """A new conversation, with items (OpenAI's JSON, each with its id) if there are any.

        Raises:
            NotFound: no such actor.
        """
        with self._database.write(lock=LOCK) as session:
            require_actor(session, actor_id)
            row = OpenAIConversation(id=new_id("conv_"), actor_id=actor_id, metadata_=dict(metadata))
            session.add(row)
            session.flush()
            append(session, row.id, items)
            return row

    def get(self, id: str, actor_id: str | None) -> OpenAIConversation:
        """The conversation.

        Raises:
            NotFound: no such conversation, or somebody else's.
        """
        with self._database.read() as session:
            return _require(session, id, actor_id)

    def update(self, id: str, actor_id: str | None, metadata: Mapping[str, str]) -> OpenAIConversation:
        """Replace the metadata. Raises as `get`."""
        with self._database.write() as session:
            row = _require(session, id, actor_id)
            row.metadata_ = dict(metadata)
            return row

    def delete(self, id: str, actor_id: str | None) -> None:
        """Forget a conversation with its items; responses that were part of it keep what they said. Raises as `get`."""
        with self._database.write() as session:
            _require(session, id, actor_id)
            session.execute(delete(OpenAIConversation).where(OpenAIConversation.id == id))

    def add_items(self, id: str, actor_id: str | None, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Items at the end; returns them as they are kept. Raises as `get`."""
        with self._database.write(lock=LOCK) as session:
            _require(session, id, actor_id)
            return append(session, id, items)

    def items(
        self, id: str, actor_id: str | None, limit: int = 20, after: str | None = None, order: Order = "desc"
    ) -> Page[OpenAIConversationItem]:
        """A page of items. Raises as `get`, and InvalidInput as `paginate`."""
        with self._database.read() as session:
            _require(session, id, actor_id)
            place, item_id = OpenAIConversationItem.place, OpenAIConversationItem.id
            return paginate(session, _items(id), place, item_id, limit=limit, after=after, order=order)

    def said(self, id: str, actor_id: str | None) -> list[dict[str, Any]]:
        """All items, oldest first. Raises as `get`."""
        with self._database.read() as session:
            _require(session, id, actor_id)
            return [row.item for row in session.scalars(_items(id).order_by(OpenAIConversationItem.place))]

    def item(self, id: str, item_id: str, actor_id: str | None) -> dict[str, Any]:
        """One item.

        Raises:
            NotFound: no such conversation or item, or somebody else's.
        """
        with self._database.read() as session:
            _require(session, id, actor_id)
            return _require_item(session, id, item_id).item

    def delete_item(self, id: str, item_id: str, actor_id: str | None) -> OpenAIConversation:
        """Take one item out; returns the conversation. Raises as `item`."""
        with self._database.write() as session:
            row = _require(session, id, actor_id)
            session.delete(_require_item(session, id, item_id))
            return row

    def find_item(self, id: str, actor_id: str) -> dict[str, Any] | None:
        """An item of any of the actor's conversations, by its id."""
        with self._database.read() as session:
            statement = (
                select(OpenAIConversationItem)
                .join(OpenAIConversation)
                .where(OpenAIConversationItem.id == id, OpenAIConversation.actor_id == actor_id)
            )
            found = session.scalars(statement.limit(1)).first()
            return None if found is None else found.item


def append(session: Session, conversation_id: str, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items at the end of a conversation; none where it was deleted. The caller holds `LOCK`.

    One that comes again, from a client that plays back what was said, gets an id of its own: pages go by ids.
    """
    if session.get(OpenAIConversation, conversation_id) is None:
        return []
    mine = OpenAIConversationItem.conversation_id == conversation_id
    last = session.scalar(select(func.max(OpenAIConversationItem.place)).where(mine))
    first = 0 if last is None else last + 1
    ids = [item["id"] for item in items]
    taken = set(session.scalars(select(OpenAIConversationItem.id).where(mine, OpenAIConversationItem.id.in_(ids))))
    kept = [dict(item) | ({"id": fresh_id(item["id"])} if item["id"] in taken else {}) for item in items]
    session.add_all(
        OpenAIConversationItem(conversation_id=conversation_id, place=first + i, id=item["id"], item=item)
        for i, item in enumerate(kept)
    )
    return kept


def fresh_id(taken: str) -> str:
    """Another id for an item of the same kind."""
    return new_id(taken.partition("_")[0] + "_")


def _items(conversation_id: str) -> Any:
    return select(OpenAIConversationItem).where(OpenAIConversationItem.conversation_id == conversation_id)


def _require(session: Session, id: str, actor_id: str | None) -> OpenAIConversation:
    row = session.get(OpenAIConversation, id)
    if row is None or actor_id not in (None, row.actor_id):
        raise NotFound(
            f"Conversation with id '{id}' not found.", param="conversation_id", code="conversation_not_found"
        )
    return row


def _require_item(session: Session, conversation_id: str, item_id: str) -> OpenAIConversationItem:
    mine = OpenAIConversationItem.conversation_id == conversation_id, OpenAIConversationItem.id == item_id
    row = session.scalars(select(OpenAIConversationItem).where(*mine)).first()
    if row is None:
        raise NotFound(f"Item with id '{item_id}' not found.", param="item_id", code="item_not_found")
    return row
