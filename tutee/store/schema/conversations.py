"""Tables of the talking side: people, consent, conversations, generations, what was shown, feedback, erasure.

Feedback and generation chunks are append-only: a change is a new row whose `supersedes` names the old one, and a
trigger made by the migration refuses UPDATE. No relationships are declared, so nothing is ever loaded behind our back.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tutee.store.schema.base import DEFAULT_PROJECT, Base, FreeString, Id, InProject, Json, JsonList, Sha, Word, now


class Actor(Base):
    """Somebody who talks or judges, in one project: `actor-…`. Kinds: user, trainer, admin, sim, judge, service.

    The same person in another project is another actor, with a handle that begins with the project's id: what belongs
    to an actor belongs to a project, and no query can mix two projects up.
    """

    __tablename__ = "actor"
    id: Mapped[Id] = mapped_column(primary_key=True)
    kind: Mapped[Word]
    project_id: Mapped[Id] = mapped_column(default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT)
    handle: Mapped[FreeString] = mapped_column(unique=True)
    cohort: Mapped[FreeString | None]
    created_at: Mapped[float] = mapped_column(default=now)


class Consent(Base):
    """One decision about one scope (store, eval, train, share); the newest decision counts."""

    __tablename__ = "consent"
    __table_args__ = (Index("consent_actor_scope", "actor_id", "scope"),)
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"))
    scope: Mapped[Word]
    granted: Mapped[bool]
    policy_version: Mapped[Word | None]
    created_at: Mapped[float] = mapped_column(default=now)
    supersedes: Mapped[Id | None] = mapped_column(unique=True)


class Blob(Base):
    """Content by its sha256: message texts as UTF-8, prompt token ids as int32."""

    __tablename__ = "blob"
    sha256: Mapped[Sha] = mapped_column(primary_key=True)
    data: Mapped[bytes]


class Conversation(Base):
    """A tree of messages owned by one actor: `conv-…`. `train` overrides the owner's consent when it is not null."""

    __tablename__ = "conversation"
    __table_args__ = (Index("conversation_recent", "actor_id", "updated_at", "id"),)
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"))
    project_id: Mapped[InProject]
    title: Mapped[FreeString | None]
    system_sha: Mapped[Sha | None] = mapped_column(ForeignKey("blob.sha256"), index=True)
    train: Mapped[bool | None]
    head_message_id: Mapped[Id | None]
    created_at: Mapped[float] = mapped_column(default=now)
    updated_at: Mapped[float] = mapped_column(default=now)
    retention_until: Mapped[float | None]


class Message(Base):
    """One turn of the tree: `msg-…`. States: complete, streaming, stopped, interrupted, error."""

    __tablename__ = "message"
    __table_args__ = (
        UniqueConstraint("conversation_id", "parent_id", "sibling_index", name="message_sibling"),
        Index("message_state", "state"),
    )
    id: Mapped[Id] = mapped_column(primary_key=True)
    conversation_id: Mapped[Id] = mapped_column(ForeignKey("conversation.id"))
    parent_id: Mapped[Id | None] = mapped_column(ForeignKey("message.id"), index=True)
    role: Mapped[Word]
    blob_sha: Mapped[Sha | None] = mapped_column(ForeignKey("blob.sha256"), index=True)
    """None while the message streams: its text so far lies in the chunks."""
    state: Mapped[Word]
    sibling_index: Mapped[int]
    author_actor_id: Mapped[Id | None] = mapped_column(ForeignKey("actor.id"))
    """None when the model wrote it."""
    generation_id: Mapped[Id | None] = mapped_column(unique=True)
    edited_from: Mapped[Id | None] = mapped_column(ForeignKey("message.id"), index=True)
    synthetic: Mapped[bool] = mapped_column(default=False)
    language: Mapped[Word | None]
    created_at: Mapped[float] = mapped_column(default=now)


class Generation(Base):
    """One sampled answer and everything that made it: `gen-…`. Fixed once `finished_at` is set."""

    __tablename__ = "generation"
    id: Mapped[Id] = mapped_column(primary_key=True)
    message_id: Mapped[Id] = mapped_column(ForeignKey("message.id"), unique=True)
    version_id: Mapped[Id] = mapped_column(ForeignKey("model_version.id"), index=True)
    weights_sha256: Mapped[Sha]
    tokenizer_sha256: Mapped[Sha]
    template_sha256: Mapped[Sha]
    prompt_sha: Mapped[Sha] = mapped_column(ForeignKey("blob.sha256"), index=True)
    sampling: Mapped[Json]
    arm: Mapped[Word | None]
    experiment_id: Mapped[Id | None] = mapped_column(ForeignKey("experiment.id"))
    propensity: Mapped[float]
    """P(this arm | context) at serve time."""
    token_ids: Mapped[bytes | None]
    """int32, little endian; None until finished."""
    logprobs: Mapped[bytes | None]
    """float32, little endian, at temperature 1 and untruncated."""
    n_tokens: Mapped[int | None]
    seq_logprob: Mapped[float | None]
    ref_logprob: Mapped[float | None]
    finish_reason: Mapped[Word | None]
    ttft_s: Mapped[float | None]
    tokens_per_s: Mapped[float | None]
    moderation_id: Mapped[Id | None]
    tool_calls: Mapped[JsonList | None]
    retrieved_ids: Mapped[JsonList | None]
    created_at: Mapped[float] = mapped_column(default=now)
    finished_at: Mapped[float | None]


class GenerationChunk(Base):
    """A piece of an answer that still streams; compiled into the generation when it ends, then dropped."""

    __tablename__ = "generation_chunk"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    generation_id: Mapped[Id] = mapped_column(ForeignKey("generation.id"), index=True)
    text: Mapped[bytes]
    token_ids: Mapped[bytes]
    logprobs: Mapped[bytes]


class Presentation(Base):
    """What somebody was shown, in which order and why: `pres-…`. Layouts: single, side_by_side, rank."""

    __tablename__ = "presentation"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    layout: Mapped[Word]
    blind: Mapped[bool]
    selection_policy: Mapped[Word]
    selection_prob: Mapped[float]
    order_seed: Mapped[int]
    created_at: Mapped[float] = mapped_column(default=now)


class PresentationItem(Base):
    """One shown answer; `position` 0 is the first one ("a")."""

    __tablename__ = "presentation_item"
    presentation_id: Mapped[Id] = mapped_column(ForeignKey("presentation.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    generation_id: Mapped[Id] = mapped_column(ForeignKey("generation.id"), index=True)


class Feedback(Base):
    """One event of feedback: `fb-…`. Append-only. Payloads by kind are listed in `tutee.store.feedback`."""

    __tablename__ = "feedback"
    __table_args__ = (
        Index("feedback_target", "actor_id", "kind", "target_id"),
        CheckConstraint("strength IS NULL OR (strength >= 0 AND strength <= 3)", name="feedback_strength"),
    )
    id: Mapped[Id] = mapped_column(primary_key=True)
    kind: Mapped[Word]
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"))
    project_id: Mapped[InProject]
    presentation_id: Mapped[Id | None] = mapped_column(ForeignKey("presentation.id"), index=True)
    message_id: Mapped[Id | None] = mapped_column(ForeignKey("message.id"), index=True)
    conversation_id: Mapped[Id | None] = mapped_column(ForeignKey("conversation.id"), index=True)
    target_id: Mapped[Id]
    """What is judged: a message or presentation id, or the row's own id when nothing can replace it."""
    payload: Mapped[Json]
    strength: Mapped[int | None]
    confidence: Mapped[float | None]
    reasons: Mapped[JsonList]
    comment: Mapped[FreeString | None]
    client: Mapped[FreeString | None]
    weight_override: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=now, index=True)
    supersedes: Mapped[Id | None] = mapped_column(unique=True)


class Review(Base):
    """A second person's verdict on a piece of feedback."""

    __tablename__ = "review"
    id: Mapped[Id] = mapped_column(primary_key=True)
    feedback_id: Mapped[Id] = mapped_column(ForeignKey("feedback.id", ondelete="CASCADE"), index=True)
    reviewer_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"))
    verdict: Mapped[Word]
    labels: Mapped[Json]
    created_at: Mapped[float] = mapped_column(default=now)


class Erasure(Base):
    """A tombstone: what was erased and which versions learned from it. Wins over everything else."""

    __tablename__ = "erasure"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id | None] = mapped_column(index=True)
    conversation_id: Mapped[Id | None]
    feedback_ids: Mapped[JsonList]
    tainted_versions: Mapped[JsonList]
    requested_at: Mapped[float] = mapped_column(default=now)
    retrained_job_id: Mapped[Id | None]
    proof_sha: Mapped[Sha | None]
    closed_at: Mapped[float | None]
