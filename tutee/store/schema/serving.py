"""Tables of the serving side: projects, API keys, uploaded files, stored chat completions, and the audit chain."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from tutee.store.schema.base import Base, FreeString, Id, InProject, Json, JsonList, Sha, Word, now


class Project(Base):
    """A wall: what is made in one project does not exist in another. `proj_…`; `proj_default` is in every home."""

    __tablename__ = "project"
    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[FreeString]
    requests_per_minute: Mapped[int | None]
    """None: no limit. Likewise for tokens; a key may have narrower ones."""
    tokens_per_minute: Mapped[int | None]
    created_at: Mapped[float] = mapped_column(default=now)
    archived_at: Mapped[float | None]


class File(Base):
    """An uploaded or produced file: `file-…`; its bytes lie in `home/files/<sha256>`."""

    __tablename__ = "file"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id | None] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    sha256: Mapped[Sha] = mapped_column(index=True)
    bytes: Mapped[int]
    filename: Mapped[FreeString]
    purpose: Mapped[Word]
    created_at: Mapped[float] = mapped_column(default=now)
    expires_at: Mapped[float | None] = mapped_column(index=True)


class Completion(Base):
    """A chat completion that was asked to be kept (`store: true`): `chatcmpl-…`."""

    __tablename__ = "completion"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    model: Mapped[FreeString]
    messages: Mapped[JsonList]
    """The request's messages as OpenAI's JSON."""
    response: Mapped[Json]
    metadata_: Mapped[Json] = mapped_column("metadata")
    samples: Mapped[Json | None]
    """What feedback on it needs: the turns that were answered, and each choice as it was sampled."""
    turns_sha: Mapped[Sha | None] = mapped_column(index=True)
    """Of the turns: answers to the same ones can be compared."""
    message_ids: Mapped[JsonList | None]
    """Of each choice the message that it became when feedback came."""
    created_at: Mapped[float] = mapped_column(default=now)


class CompletionTag(Base):
    """One metadata pair of a stored completion, so that lists can filter by it."""

    __tablename__ = "completion_tag"
    __table_args__ = (Index("completion_tag_value", "key", "value"),)
    completion_id: Mapped[Id] = mapped_column(ForeignKey("completion.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[FreeString] = mapped_column(primary_key=True)
    value: Mapped[FreeString]


class ApiKey(Base):
    """A key by its sha256; the key itself is shown once and never kept."""

    __tablename__ = "api_key"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    name: Mapped[FreeString]
    sha256: Mapped[Sha] = mapped_column(unique=True)
    prefix: Mapped[Word]
    """The first characters, so that people can tell keys apart."""
    scopes: Mapped[JsonList] = mapped_column(default=lambda: ["all"], server_default='["all"]')
    """What it may do; see `tutee.store.keys`."""
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    created_at: Mapped[float] = mapped_column(default=now)
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Audit(Base):
    """Who did what, each row chained to the one before by hash. Append-only."""

    __tablename__ = "audit"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    prev_hash: Mapped[Sha]
    hash: Mapped[Sha]
    actor_id: Mapped[Id | None]
    action: Mapped[Word]
    object: Mapped[FreeString]
    detail: Mapped[Json]
    before_sha: Mapped[Sha | None]
    after_sha: Mapped[Sha | None]
    created_at: Mapped[float] = mapped_column(default=now)
