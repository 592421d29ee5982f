"""How rows look as JSON on the native routes. Pure functions; times become whole unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutee.serve.native.answers import Answers
from tutee.store.records import StoredConversation, StoredMessage, VersionRef
from tutee.store.schema import ModelVersion


def conversation_view(conversation: StoredConversation) -> dict[str, Any]:
    """A conversation without its messages."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "system": conversation.system,
        "train": conversation.train,
        "temporary": conversation.temporary,
        "head_message_id": conversation.head_message_id,
        "created_at": int(conversation.created_at),
        "updated_at": int(conversation.updated_at),
    }


def message_view(message: StoredMessage, answers: Answers) -> dict[str, Any]:
    """A message; one that is still being written has the text that is in memory, which is newer than the store's."""
    live = answers.get(message.id) if message.state == "streaming" else None
    return {
        "id": message.id,
        "conversation_id": message.conversation_id,
        "parent_id": message.parent_id,
        "role": message.role,
        "content": message.content if live is None else live.text,
        "state": message.state,
        "sibling_index": message.sibling_index,
        "sibling_count": message.sibling_count,
        "created_at": int(message.created_at),
        "author": message.author,
        "generation_id": message.generation_id,
        "version": version_ref(message.version),
        "finish_reason": message.finish_reason,
        "feedback": {"thumb": _plain(message.thumb), "edit": _plain(message.edit)},
        "presentation_id": message.presentation_id,
        "original_id": message.original_id,
    }


def version_ref(version: VersionRef | ModelVersion | None) -> dict[str, Any] | None:
    """Enough of a version for a badge."""
    return None if version is None else {"id": version.id, "number": version.number, "name": version.name}


def _plain(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if facts is None else dict(facts)
