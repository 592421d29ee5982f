"""Tables of what is done piece by piece or later: uploads in parts, batches of requests, webhooks."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from tutee.store.schema.base import Base, FreeString, Id, InProject, Json, JsonList, Sha, Word, now


class Upload(Base):
    """A file that arrives in parts: `upload-…`. Statuses: pending, completed, cancelled, expired."""

    __tablename__ = "upload"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    status: Mapped[Word]
    filename: Mapped[FreeString]
    purpose: Mapped[Word]
    mime_type: Mapped[FreeString]
    bytes: Mapped[int]
    """As announced; the parts must come to this many."""
    lifetime: Mapped[int | None]
    """Seconds that the file will be kept."""
    file_id: Mapped[Id]
    """The file's id, known before there is a file, so that completing twice makes one file."""
    created_at: Mapped[float] = mapped_column(default=now)
    expires_at: Mapped[float] = mapped_column(index=True)


class UploadPart(Base):
    """One part: `part-…`; its bytes lie in `home/uploads/<upload>/<part>`."""

    __tablename__ = "upload_part"
    id: Mapped[Id] = mapped_column(primary_key=True)
    upload_id: Mapped[Id] = mapped_column(ForeignKey("upload.id"), index=True)
    bytes: Mapped[int]
    sha256: Mapped[Sha]
    created_at: Mapped[float] = mapped_column(default=now)


class Batch(Base):
    """Many requests to be answered when there is time: `batch_…`. Statuses are OpenAI's."""

    __tablename__ = "batch"
    __table_args__ = (Index("batch_status", "status", "created_at"),)
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    endpoint: Mapped[Word]
    input_file_id: Mapped[Id]
    completion_window: Mapped[Word]
    status: Mapped[Word]
    errors: Mapped[JsonList]
    """Why the input file was refused."""
    model: Mapped[FreeString | None]
    metadata_: Mapped[Json] = mapped_column("metadata")
    lifetime: Mapped[int | None]
    """Seconds that the output files will be kept."""
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    input_tokens: Mapped[int] = mapped_column(default=0)
    output_tokens: Mapped[int] = mapped_column(default=0)
    output_file_id: Mapped[Id | None]
    error_file_id: Mapped[Id | None]
    moments: Mapped[Json]
    """Status → when it came to be that."""
    created_at: Mapped[float] = mapped_column(default=now)
    expires_at: Mapped[float]


class BatchLine(Base):
    """The answer to one line of a batch, until it is in a file. There is at most one, whatever was killed when."""

    __tablename__ = "batch_line"
    batch_id: Mapped[Id] = mapped_column(ForeignKey("batch.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    good: Mapped[bool]
    """Whether it goes to the output file, else to the error file."""
    line: Mapped[Json]


class WebhookEndpoint(Base):
    """Who wants to be told of what: `wh-…`. The secret is kept because every delivery is signed with it."""

    __tablename__ = "webhook_endpoint"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    name: Mapped[FreeString]
    url: Mapped[FreeString]
    event_types: Mapped[JsonList]
    secret: Mapped[Word]
    old_secret: Mapped[Word | None]
    """Deliveries are signed with this one too until `old_secret_until`."""
    old_secret_until: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=now)
    updated_at: Mapped[float] = mapped_column(default=now)


class WebhookDelivery(Base):
    """One event for one endpoint, from the transaction in which it happened until somebody took it or nobody will."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (Index("webhook_delivery_due", "settled_at", "next_at"),)
    id: Mapped[Id] = mapped_column(primary_key=True)
    endpoint_id: Mapped[Id] = mapped_column(ForeignKey("webhook_endpoint.id", ondelete="CASCADE"), index=True)
    event_id: Mapped[Id]
    """`evt_…`: the same in every attempt and at every endpoint, so that receivers can tell repeats."""
    type: Mapped[Word]
    data: Mapped[Json]
    created_at: Mapped[float] = mapped_column(default=now)
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[float]
    settled_at: Mapped[float | None]
    status: Mapped[Word] = mapped_column(default="waiting")
    """waiting, delivered, or given_up."""
    last_result: Mapped[FreeString | None]
