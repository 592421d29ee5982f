"""Prompts on which `improve` samples candidates: the users' own, consented, deduplicated."""

from __future__ import annotations

from dataclasses import dataclass

from tutee.conversation import Message
from tutee.data.rows import Split


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation prefix that ends in a user turn, and where it came from."""

    messages: tuple[Message, ...]
    split: Split
    actor_id: str
    conversation_id: str
    message_id: str
