"""Prompts on which `improve` samples new candidates: the users' own, consented, each asked once.

A prompt is a conversation down to a user turn. The held-out ones come along, marked, for evaluation. Knows nothing of
feedback: a prompt needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tutee.conversation import Message, parse_messages
from tutee.data.rows import Split
from tutee.data.threads import Question

UNFINISHED = ("streaming", "interrupted", "error")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation prefix that ends in a user turn, and where it came from (`message_id` is that turn)."""

    messages: tuple[Message, ...]
    split: Split
    actor_id: str
    conversation_id: str
    message_id: str


def prompts_of(asked: Iterable[Question]) -> list[Prompt]:
    """The questions that a model can be asked again, without repeats of the same user turns; the first asking stays.

    Left out: questions that are set aside, empty ones, and those behind an answer that broke off.
    """
    found: dict[tuple[str | None, str], Prompt] = {}
    for question in asked:
        thread, message = question.thread, question.message
        key = (thread.conversation.system, question.text)
        broken = any(m.role == "assistant" and m.state in UNFINISHED for m in thread.path(message.id))
        if key in found or question.split is None or broken or not message.content.strip():
            continue
        conversation = thread.conversation
        found[key] = Prompt(
            thread.prompt(message.id), question.split, conversation.actor_id, conversation.id, message.id
        )
    return list(found.values())


def prompt_payload(prompt: Prompt) -> dict[str, Any]:
    """The prompt as plain JSON values, without its split."""
    return {
        "kind": "prompt",
        "prompt": [message.to_dict() for message in prompt.messages],
        "actor_id": prompt.actor_id,
        "conversation_id": prompt.conversation_id,
        "message_id": prompt.message_id,
    }


def prompt_from(payload: Mapping[str, Any], split: Split) -> Prompt:
    """The prompt that `prompt_payload` wrote."""
    messages = tuple(parse_messages(payload["prompt"], "prompt"))
    return Prompt(messages, split, payload["actor_id"], payload["conversation_id"], payload["message_id"])
