"""Temporary chats: conversation trees in this process's memory, gone when it ends, never in the database.

Same face as `chats.StoredChats`. Nothing can be learned from them: they take no feedback.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store.answers import STATES
from tutee.store.records import Piece, Showing, Start, StoredConversation, StoredMessage, VersionRef

PREFIX = "temp"
MOST_CHATS = 256
"""Kept at once; the longest untouched goes first."""
MOST_MESSAGES = 2000


def is_temporary(id: str) -> bool:
    """Whether an id of a conversation or message names something in memory."""
    return id.startswith(PREFIX)


@dataclass(slots=True)
class _Chat:
    conversation: StoredConversation
    messages: dict[str, StoredMessage] = field(default_factory=dict)


class TemporaryChats:
    """All temporary chats of one server. Thread-safe."""

    def __init__(self, version: Callable[[str], VersionRef]) -> None:
        """`version` finds what a page shows of a version, by its id."""
        self._version = version
        self._lock = threading.RLock()
        self._chats: OrderedDict[str, _Chat] = OrderedDict()
        self._home: dict[str, str] = {}  # message id to conversation id

    def create(self, actor_id: str, title: str | None, system: str | None) -> StoredConversation:
        """A new one; when there are too many, the longest untouched is forgotten."""
        now = time.time()
        conversation = StoredConversation(
            id=new_id(f"{PREFIX}conv"),
            actor_id=actor_id,
            title=title,
            system=system,
            train=False,
            head_message_id=None,
            created_at=now,
            updated_at=now,
            temporary=True,
        )
        with self._lock:
            self._chats[conversation.id] = _Chat(conversation)
            if len(self._chats) > MOST_CHATS:
                self._forget(next(iter(self._chats)))
        return conversation

    def forget_all(self, actor_id: str) -> None:
        """Forget every chat of this actor."""
        with self._lock:
            for id in [id for id, chat in self._chats.items() if chat.conversation.actor_id == actor_id]:
                self._forget(id)

    def _forget(self, id: str) -> None:
        for message_id in self._chats.pop(id).messages:
            del self._home[message_id]

    def _chat(self, id: str, actor_id: str | None) -> _Chat:
        chat = self._chats.get(id)
        if chat is None or actor_id not in (None, chat.conversation.actor_id):
            raise NotFound(f"No conversation '{id}'.")
        self._chats.move_to_end(id)
        return chat

    def get(self, id: str, actor_id: str) -> StoredConversation:
        with self._lock:
            return self._chat(id, actor_id).conversation

    def update(self, id: str, actor_id: str, changes: Mapping[str, Any]) -> StoredConversation:
        with self._lock:
            chat = self._chat(id, actor_id)
            if changes.get("train"):
                raise InvalidInput("Nothing is learned from a temporary chat.", param="train", code="temporary")
            head = changes.get("head_message_id")
            if head is not None and head not in chat.messages:
                raise NotFound(f"No message '{head}' in this conversation.", param="head_message_id")
            chat.conversation = replace(chat.conversation, **changes, updated_at=time.time())
            return chat.conversation

    def delete(self, id: str, actor_id: str) -> list[str]:
        with self._lock:
            self._chat(id, actor_id)
            self._forget(id)
            return []

    def tree(self, id: str, actor_id: str) -> list[StoredMessage]:
        with self._lock:
            return [self._counted(message) for message in self._chat(id, actor_id).messages.values()]

    def message(self, id: str, actor_id: str | None) -> StoredMessage:
        with self._lock:
            home = self._home.get(id)
            if home is None:
                raise NotFound(f"No message '{id}'.")
            return self._counted(self._chat(home, actor_id).messages[id])

    def _counted(self, message: StoredMessage) -> StoredMessage:
        messages = self._chats[message.conversation_id].messages.values()
        return replace(message, sibling_count=sum(other.parent_id == message.parent_id for other in messages))

    def said(self, message: StoredMessage) -> Sequence[tuple[str, str]]:
        with self._lock:
            messages = self._chat(message.conversation_id, None).messages
            path = [message]
            while (parent := path[-1].parent_id) is not None:
                path.append(messages[parent])
            return [(turn.role, turn.content) for turn in path[::-1]]

    def say(
        self, id: str, parent_id: str | None, role: str, content: str, actor_id: str, title: str | None = None
    ) -> StoredMessage:
        with self._lock:
            chat = self._chat(id, actor_id)
            message = self._add(id, parent_id, role=role, content=content, state="complete", author="you")
            if chat.conversation.title is None:
                chat.conversation = replace(chat.conversation, title=title)
            return message

    def _add(self, id: str, parent_id: str | None, **facts: Any) -> StoredMessage:
        chat = self._chat(id, None)
        if parent_id is not None and parent_id not in chat.messages:
            raise NotFound(f"No message '{parent_id}' in this conversation.", param="parent_id")
        if len(chat.messages) >= MOST_MESSAGES:
            raise InvalidInput("This temporary chat is full; start another.", code="temporary_chat_full")
        siblings = sum(other.parent_id == parent_id for other in chat.messages.values())
        empty = {"generation_id": None, "version": None, "finish_reason": None, "presentation_id": None}
        message = StoredMessage(
            id=new_id(f"{PREFIX}msg"),
            conversation_id=id,
            parent_id=parent_id,
            sibling_index=siblings,
            sibling_count=siblings + 1,
            created_at=time.time(),
            blind=False,
            original_id=None,
            **(empty | facts),
        )
        chat.messages[message.id] = message
        self._home[message.id] = id
        chat.conversation = replace(chat.conversation, head_message_id=message.id, updated_at=message.created_at)
        return message

    def begin(
        self, id: str, parent_id: str, actor_id: str, starts: Sequence[Start], showing: Showing
    ) -> tuple[str, list[StoredMessage]]:
        if len(starts) > 1:
            raise InvalidInput(
                "A temporary chat records no votes, so it shows no comparisons.", param="compare", code="temporary"
            )
        with self._lock:
            self._chat(id, actor_id)
            version = self._version(starts[0].version_id)
            message = self._add(
                id, parent_id, role="assistant", content="", state="streaming", author=None, version=version
            )
        return new_id(f"{PREFIX}pres"), [message]

    def save(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """A generation of a temporary chat has the id of its message."""
        gone = []
        with self._lock:
            for piece in pieces:
                chat = self._chats.get(self._home.get(piece.generation_id, ""))
                if chat is None:
                    gone.append(piece.generation_id)
                    continue
                message = chat.messages[piece.generation_id]
                message = replace(message, content=message.content + piece.text)
                if piece.end is not None:
                    reason = piece.end.finish_reason
                    message = replace(message, state=STATES[reason], finish_reason=reason)
                chat.messages[message.id] = message
        return gone
