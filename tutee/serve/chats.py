"""Stored conversations, as the native routes and the generator of answers use them: one face for the store's groups.

`temporary.py` has the same face over memory. Both check that what is named belongs to the actor who names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tutee.serve.answers import Record
from tutee.serve.live import Served
from tutee.store import Store
from tutee.store.records import StoredConversation, StoredMessage


@dataclass(frozen=True, slots=True)
class Showing:
    """How answers are shown together: order, blindness, and the chance with which they were chosen."""

    layout: str
    blind: bool
    selection_policy: str
    order_seed: int = 0
    selection_prob: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer before its first token: which version, on which prompt, sampled how, and why this version."""

    served: Served
    prompt_ids: Sequence[int]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    arm: str = "live"
    propensity: float = 1.0


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

    def history(self, message: StoredMessage) -> list[StoredMessage]:
        """The path from the root to a message, itself included."""

    def say(self, id: str, parent_id: str | None, role: str, content: str, actor_id: str) -> StoredMessage:
        """Add a complete message written by a person; the same parent as another turn makes a sibling."""

    def open_answer(self, id: str, parent_id: str, plan: Plan, head: bool) -> tuple[str, str, Record]:
        """Add an empty message that streams; its id, its generation's id, and where to save what comes."""

    def present(self, actor_id: str, generation_ids: Sequence[str], showing: Showing) -> str:
        """Note what is shown together, in order; the presentation's id."""


class StoredChats:
    """`Chats` over the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, id: str, actor_id: str) -> StoredConversation:
        return self.store.conversations.get(id, actor_id)

    def update(self, id: str, actor_id: str, changes: Mapping[str, Any]) -> StoredConversation:
        return self.store.conversations.update(id, actor_id, **changes)

    def delete(self, id: str, actor_id: str) -> list[str]:
        return list(self.store.conversations.delete(id, actor_id).tainted_versions)

    def tree(self, id: str, actor_id: str) -> list[StoredMessage]:
        return self.store.messages.tree(id, actor_id)

    def message(self, id: str, actor_id: str) -> StoredMessage:
        return self.store.messages.get(id, actor_id)

    def history(self, message: StoredMessage) -> list[StoredMessage]:
        return self.store.messages.path(message.id)

    def say(self, id: str, parent_id: str | None, role: str, content: str, actor_id: str) -> StoredMessage:
        return self.store.messages.add(id, parent_id, role, content, actor_id)

    def open_answer(self, id: str, parent_id: str, plan: Plan, head: bool) -> tuple[str, str, Record]:
        message = self.store.messages.add(id, parent_id, "assistant", None, None, state="streaming", head=head)
        model = plan.served.model
        generation_id = self.store.generations.start(
            message.id,
            plan.served.version.id,
            prompt_ids=plan.prompt_ids,
            sampling=dict(plan.sampling),
            weights_sha256=plan.served.version.weights_sha256,
            tokenizer_sha256=model.tokenizer.sha256,
            template_sha256=model.chat_format.sha256,
            propensity=plan.propensity,
            arm=plan.arm,
        )
        return message.id, generation_id, StoredRecord(self.store, generation_id)

    def present(self, actor_id: str, generation_ids: Sequence[str], showing: Showing) -> str:
        return self.store.presentations.create(
            actor_id,
            list(generation_ids),
            layout=showing.layout,
            blind=showing.blind,
            selection_policy=showing.selection_policy,
            order_seed=showing.order_seed,
            selection_prob=showing.selection_prob,
        ).id


class StoredRecord:
    """Saves one answer as a generation of the store."""

    def __init__(self, store: Store, generation_id: str) -> None:
        self.store = store
        self.generation_id = generation_id

    def append(self, text: str, token_ids: Sequence[int], logprobs: Sequence[float]) -> None:
        self.store.generations.append(self.generation_id, text, token_ids, logprobs)

    def finish(self, reason: str, ttft_s: float | None, tokens_per_s: float | None) -> None:
        self.store.generations.finish(self.generation_id, reason, ttft_s=ttft_s, tokens_per_s=tokens_per_s)
