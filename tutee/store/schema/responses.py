"""Tables of OpenAI's responses and conversations: answers that remember what came before them.

Items (messages, calls of functions, their results) are kept as the JSON that clients read. A response owns its input
and its output; a conversation owns copies of what was said in it, so that deleting the one leaves the other.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from tutee.store.schema.base import Base, FreeString, Id, InProject, Json, Word, now


class Response(Base):
    """An answer with `store: true`: `resp_…`. Statuses are OpenAI's."""

    __tablename__ = "response"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    previous_id: Mapped[Id | None]
    """The response that it continues; that one may be deleted, and then neither can be continued."""
    conversation_id: Mapped[Id | None]
    model: Mapped[FreeString]
    status: Mapped[Word] = mapped_column(index=True)
    body: Mapped[Json]
    """The whole object as clients read it, output included."""
    created_at: Mapped[float] = mapped_column(default=now)
    ended_at: Mapped[float | None] = mapped_column(index=True)
    """None while it runs."""


class ResponseEvents(Base):
    """Events that were told of a response in the background, so that a reader can go on where it stopped: a batch of
    those that came within a second."""

    __tablename__ = "response_events"
    response_id: Mapped[Id] = mapped_column(ForeignKey("response.id", ondelete="CASCADE"), primary_key=True)
    first: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """The `sequence_number` of the first one."""
    count: Mapped[int]
    packed: Mapped[bytes]
    """JSON, one event a line, deflated: they say the same fields again and again."""


class ResponseItem(Base):
    """One item of a response's input (`kind` "input") or output ("output"), in the order in which they were said."""

    __tablename__ = "response_item"
    response_id: Mapped[Id] = mapped_column(ForeignKey("response.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[Id] = mapped_column(index=True)
    kind: Mapped[Word]
    item: Mapped[Json]


class OpenAIConversation(Base):
    """A list of items that responses can read and add to: `conv_…`. Not a conversation of the page's."""

    __tablename__ = "openai_conversation"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    metadata_: Mapped[Json] = mapped_column("metadata")
    created_at: Mapped[float] = mapped_column(default=now)


class OpenAIConversationItem(Base):
    """One item of such a conversation."""

    __tablename__ = "openai_conversation_item"
    conversation_id: Mapped[Id] = mapped_column(
        ForeignKey("openai_conversation.id", ondelete="CASCADE"), primary_key=True
    )
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[Id] = mapped_column(index=True)
    item: Mapped[Json]
