"""Conversations that may be learned from, read whole: the ground on which rows and prompts are made.

Consent is decided here and nowhere else: a conversation's own switch, else its owner's consent to `train`.
Knows the store; does not know what feedback means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from sqlalchemy import select

from tutee.conversation import Message, Role
from tutee.data.rows import Split
from tutee.data.splits import Item, assign, normalise
from tutee.store import Store
from tutee.store.records import StoredConversation, StoredMessage
from tutee.store.schema import Conversation


@dataclass(frozen=True, slots=True)
class Thread:
    """One consented conversation: its messages by id, parents before children, and the handle of its owner."""

    conversation: StoredConversation
    person: str
    messages: dict[str, StoredMessage]

    def path(self, message_id: str | None) -> list[StoredMessage]:
        """The messages from the root down to this one."""
        path = []
        while message_id is not None:
            path.append(self.messages[message_id])
            message_id = path[-1].parent_id
        return path[::-1]

    def prompt(self, user_message_id: str) -> tuple[Message, ...]:
        """What a model is asked at this user turn: the system prompt, then every turn down to it."""
        system = self.conversation.system
        head = () if not system else (Message("system", system),)
        return (*head, *(Message(cast(Role, m.role), m.content) for m in self.path(user_message_id)))

    def siblings(self, message: StoredMessage) -> list[StoredMessage]:
        """Messages with the same parent, this one too, the oldest first."""
        return [other for other in self.messages.values() if other.parent_id == message.parent_id]


def consented(store: Store, conversation_ids: Iterable[str] | None = None) -> list[StoredConversation]:
    """Conversations that may be learned from, the oldest first.

    Args:
        conversation_ids: look at these only; None: at all.
    """
    agreed = store.consents.all("train")
    if conversation_ids is None:
        with store.database.read() as session:
            conversation_ids = session.scalars(select(Conversation.id)).all()
    found = store.conversations.get_many(conversation_ids).values()
    allowed = (c for c in found if (agreed[c.actor_id] if c.train is None else c.train))
    return sorted(allowed, key=lambda c: (c.created_at, c.id))


def consented_threads(store: Store, conversation_ids: Iterable[str] | None = None) -> dict[str, Thread]:
    """The conversations of `consented`, by id, with their messages."""
    people = {actor.id: actor.handle for actor in store.actors.list()}
    allowed = consented(store, conversation_ids)
    trees = store.messages.trees(conversation.id for conversation in allowed)
    return {c.id: Thread(c, people[c.actor_id], {m.id: m for m in trees.get(c.id, [])}) for c in allowed}


@dataclass(frozen=True, slots=True)
class Question:
    """A user turn. `text` holds the user's turns down to it, normalised; `split` None means set aside (`splits.py`)."""

    thread: Thread
    message: StoredMessage
    text: str
    split: Split | None


def questions(threads: Iterable[Thread]) -> dict[str, Question]:
    """Every user turn with its split, by message id, in the order in which they were asked."""
    asked = [(thread, message) for thread in threads for message in thread.messages.values() if message.role == "user"]
    asked.sort(key=lambda pair: (pair[1].created_at, pair[1].id))
    texts = ["\n".join(m.content for m in thread.path(message.id) if m.role == "user") for thread, message in asked]
    items = [Item(thread.person, thread.conversation.id, text) for (thread, _), text in zip(asked, texts, strict=True)]
    return {
        message.id: Question(thread, message, normalise(text), split)
        for (thread, message), text, split in zip(asked, texts, assign(items), strict=True)
    }
