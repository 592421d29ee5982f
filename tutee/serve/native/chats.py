"""Stored conversations, as the native routes and the generator of answers use them: one face for the store's groups.

`temporary.py` has the same face over memory. Both check that what is named belongs to the actor who names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tutee.data.taken_back import forget_taken_back
from tutee.store import Store
from tutee.store.records import Piece, Showing, Start, StoredConversation, StoredMessage


class Chats(Protocol):
    """What a place that keeps conversations can do. NotFound for whatever is missing or somebody else's."""

    def get(self, id: str, actor_id: str) -> StoredConversation:
        """A conversation."""

    def update(self, id: str, actor_id: str, changes: Mapping[str, Any]) -> StoredConversation:
        """Change title, train or head_message_id."""

    def delete(self, id: str, actor_id: str) -> list[str]:
        """Delete it with its messages and feedback; the versions that learned from it."""

    def tree(self, id: str, actor_id: str) -> list[StoredMessage]:
        """All messages, parents first."""

    def message(self, id: str, actor_id: str) -> StoredMessage:
        """One message."""

    def said(self, message: StoredMessage) -> Sequence[tuple[str, str]]:
        """(role, text) of the path from the root to a finished message, itself included."""

    def say(
        self, id: str, parent_id: str | None, role: str, content: str, actor_id: str, title: str | None = None
    ) -> StoredMessage:
        """Add a complete message written by a person; the same parent as another turn makes a sibling.

        Args:
            title: names the conversation if it has no title yet.
        """

    def begin(
        self, id: str, parent_id: str, actor_id: str, starts: Sequence[Start], showing: Showing
    ) -> tuple[str, list[StoredMessage]]:
        """Add empty messages that stream, shown together; the presentation's id, and the messages."""

    def save(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """Save what answers said since the last time, all or nothing; the generations that are gone."""


class StoredChats:
    """`Chats` over the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, id: str, actor_id: str) -> StoredConversation:
        return self.store.conversations.get(id, actor_id)

    def update(self, id: str, actor_id: str, changes: Mapping[str, Any]) -> StoredConversation:
        changed = self.store.conversations.update(id, actor_id, **changes)
        if "train" in changes:
            forget_taken_back(self.store)
        return changed

    def delete(self, id: str, actor_id: str) -> list[str]:
        tombstone = self.store.conversations.delete(id, actor_id)
        forget_taken_back(self.store)
        return list(tombstone.tainted_versions)

    def tree(self, id: str, actor_id: str) -> list[StoredMessage]:
        return self.store.messages.tree(id, actor_id)

    def message(self, id: str, actor_id: str) -> StoredMessage:
        return self.store.messages.get(id, actor_id)

    def said(self, message: StoredMessage) -> Sequence[tuple[str, str]]:
        return self.store.messages.said(message.id)

    def say(
        self, id: str, parent_id: str | None, role: str, content: str, actor_id: str, title: str | None = None
    ) -> StoredMessage:
        return self.store.messages.add(id, parent_id, role, content, actor_id, title=title)

    def begin(
        self, id: str, parent_id: str, actor_id: str, starts: Sequence[Start], showing: Showing
    ) -> tuple[str, list[StoredMessage]]:
        return self.store.answers.begin(id, parent_id, actor_id, starts, showing)

    def save(self, pieces: Sequence[Piece]) -> Sequence[str]:
        return self.store.answers.save(pieces)
