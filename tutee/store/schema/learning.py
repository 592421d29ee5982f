"""Tables of the learning side: snapshots, jobs, versions, evaluations, gates, promotions, experiments.

A row of `job` is what the flywheel calls a run. Rows that can be rebuilt (pairs, scrubs) name their inputs by hash.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from tutee.store.schema.base import Base, FreeString, Id, InProject, Json, JsonList, Sha, Word, now


class Scrub(Base):
    """Personal data taken out of a text before it entered a snapshot."""

    __tablename__ = "scrub"
    id: Mapped[Id] = mapped_column(primary_key=True)
    blob_sha: Mapped[Sha] = mapped_column(index=True)
    tool: Mapped[Word]
    version: Mapped[Word]
    entities: Mapped[JsonList]
    out_blob_sha: Mapped[Sha]


class PreferencePair(Base):
    """A derived pair; can be rebuilt from feedback at any time."""

    __tablename__ = "preference_pair"
    id: Mapped[Id] = mapped_column(primary_key=True)
    prompt_sha: Mapped[Sha]
    chosen_sha: Mapped[Sha]
    rejected_sha: Mapped[Sha]
    feedback_id: Mapped[Id] = mapped_column(ForeignKey("feedback.id", ondelete="CASCADE"), index=True)
    margin: Mapped[float | None]
    weight: Mapped[float]
    rater_reliability: Mapped[float | None]
    on_policy_of: Mapped[Id | None] = mapped_column(ForeignKey("model_version.id"))
    propensity_weight: Mapped[float | None]


class Snapshot(Base):
    """A frozen dataset, named by the sha256 of its canonical rows. Kinds: sft, pair, unpaired, prompt, eval, mixed."""

    __tablename__ = "snapshot"
    sha: Mapped[Sha] = mapped_column(primary_key=True)
    kind: Mapped[Word]
    counts: Mapped[Json]
    row_count: Mapped[int]
    query: Mapped[FreeString | None]
    code_sha: Mapped[Sha | None]
    parent_sha: Mapped[Sha | None] = mapped_column(ForeignKey("snapshot.sha"))
    split_rule: Mapped[FreeString | None]
    created_at: Mapped[float] = mapped_column(default=now)


class SnapshotRow(Base):
    """One row of a snapshot. `payload` becomes null when the feedback behind it is erased; the hash stays as proof."""

    __tablename__ = "snapshot_row"
    snapshot_sha: Mapped[Sha] = mapped_column(ForeignKey("snapshot.sha"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    row_sha: Mapped[Sha]
    split: Mapped[Word]
    kind: Mapped[Word]
    feedback_id: Mapped[Id | None] = mapped_column(index=True)
    actor_id: Mapped[Id | None] = mapped_column(index=True)
    payload: Mapped[Json | None]


class Job(Base):
    """One training run: `ftjob-…`. Statuses are OpenAI's: validating_files, queued, running, paused, succeeded, failed,
    cancelled."""

    __tablename__ = "job"
    __table_args__ = (Index("job_status", "status", "id"),)
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id | None] = mapped_column(ForeignKey("actor.id"))
    project_id: Mapped[InProject]
    method: Mapped[Word]
    status: Mapped[Word]
    model: Mapped[FreeString]
    """Name of the version or base that training starts from."""
    config: Mapped[Json]
    config_sha: Mapped[Sha]
    training_file: Mapped[Id | None]
    validation_file: Mapped[Id | None]
    suffix: Mapped[FreeString | None]
    seed: Mapped[int]
    snapshot_sha: Mapped[Sha | None] = mapped_column(ForeignKey("snapshot.sha"))
    metadata_: Mapped[Json] = mapped_column("metadata")
    reference_id: Mapped[Id | None]
    reward_version_id: Mapped[Id | None]
    version_id: Mapped[Id | None]
    """The version that it made, once it succeeded."""
    fine_tuned_model: Mapped[FreeString | None]
    result_files: Mapped[JsonList]
    trained_tokens: Mapped[int | None]
    progress: Mapped[Json]
    error: Mapped[Json | None]
    code_commit: Mapped[Word | None]
    environment_sha: Mapped[Sha | None]
    hardware: Mapped[Json | None]
    cost: Mapped[Json | None]
    created_at: Mapped[float] = mapped_column(default=now)
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False)
    lease_owner: Mapped[FreeString | None]
    lease_expires: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    """How often a worker took it."""


class JobEvent(Base):
    """One line of a job's log: `ftevent-…`."""

    __tablename__ = "job_event"
    __table_args__ = (Index("job_event_order", "job_id", "seq"),)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[Id] = mapped_column(unique=True)
    job_id: Mapped[Id] = mapped_column(ForeignKey("job.id"))
    type: Mapped[Word]
    level: Mapped[Word]
    message: Mapped[FreeString]
    data: Mapped[Json | None]
    created_at: Mapped[float] = mapped_column(default=now)


class JobMetric(Base):
    """One number of one step. A null value was not finite."""

    __tablename__ = "job_metric"
    job_id: Mapped[Id] = mapped_column(ForeignKey("job.id"), primary_key=True)
    name: Mapped[Word] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float | None]


class JobCheckpoint(Base):
    """A complete checkpoint on disk: `ftckpt-…`; `path` is relative to the home folder."""

    __tablename__ = "job_checkpoint"
    id: Mapped[Id] = mapped_column(primary_key=True)
    job_id: Mapped[Id] = mapped_column(ForeignKey("job.id"), index=True)
    step: Mapped[int]
    path: Mapped[FreeString]
    metrics: Mapped[Json]
    fine_tuned_model_checkpoint: Mapped[FreeString | None]
    created_at: Mapped[float] = mapped_column(default=now)


class ModelVersion(Base):
    """Weights with a history: `ver-…`. States: candidate, live, archived, rejected, revoked."""

    __tablename__ = "model_version"
    id: Mapped[Id] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    name: Mapped[FreeString] = mapped_column(unique=True)
    kind: Mapped[Word]
    state: Mapped[Word]
    parent_id: Mapped[Id | None] = mapped_column(ForeignKey("model_version.id"))
    job_id: Mapped[Id | None] = mapped_column(ForeignKey("job.id"), index=True)
    project_id: Mapped[InProject]
    snapshot_sha: Mapped[Sha | None] = mapped_column(ForeignKey("snapshot.sha"), index=True)
    weights_sha256: Mapped[Sha]
    folder: Mapped[FreeString]
    """Relative to the home folder, or absolute for a base that lives elsewhere."""
    card: Mapped[Json]
    signature: Mapped[FreeString | None]
    created_at: Mapped[float] = mapped_column(default=now)


class Alias(Base):
    """A name that points at a version; `chat` is the one people talk to."""

    __tablename__ = "alias"
    name: Mapped[Word] = mapped_column(primary_key=True)
    version_id: Mapped[Id] = mapped_column(ForeignKey("model_version.id"))
    updated_at: Mapped[float] = mapped_column(default=now)


class ModelAlias(Base):
    """Another name for a model, or a pattern of names; whom it means is looked up by name each time."""

    __tablename__ = "model_alias"
    pattern: Mapped[FreeString] = mapped_column(primary_key=True)
    target: Mapped[FreeString]
    """A version's name, id or number, or `chat`."""
    actor_id: Mapped[Id | None] = mapped_column(ForeignKey("actor.id"))
    created_at: Mapped[float] = mapped_column(default=now)


class EvalSuite(Base):
    """A named set of items and the way to score it. `gate_role`: block, warn or info."""

    __tablename__ = "eval_suite"
    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[Word]
    version: Mapped[Word]
    data_sha: Mapped[Sha]
    scorer_sha: Mapped[Sha]
    direction: Mapped[Word]
    gate_role: Mapped[Word]


class Evaluation(Base):
    """One score of one version, with its interval: `eval-…`."""

    __tablename__ = "evaluation"
    id: Mapped[Id] = mapped_column(primary_key=True)
    version_id: Mapped[Id] = mapped_column(ForeignKey("model_version.id"), index=True)
    baseline_id: Mapped[Id | None] = mapped_column(ForeignKey("model_version.id"))
    suite: Mapped[Word]
    n: Mapped[int]
    estimate: Mapped[float | None]
    ci_lo: Mapped[float | None]
    ci_hi: Mapped[float | None]
    method: Mapped[FreeString]
    role: Mapped[Word]
    detail: Mapped[Json]
    created_at: Mapped[float] = mapped_column(default=now)


class Gate(Base):
    """One verdict on one candidate: `gate-…`. Verdicts: pass, fail, insufficient."""

    __tablename__ = "gate"
    id: Mapped[Id] = mapped_column(primary_key=True)
    candidate_id: Mapped[Id] = mapped_column(ForeignKey("model_version.id"), index=True)
    baseline_id: Mapped[Id | None] = mapped_column(ForeignKey("model_version.id"))
    policy_sha: Mapped[Sha | None]
    verdict: Mapped[Word]
    reasons: Mapped[JsonList]
    checks: Mapped[JsonList]
    e_value: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=now)


class Promotion(Base):
    """One move of an alias: `promo-…`. `stage` is promote or rollback (shadow, 5, 25, 100 for ramps)."""

    __tablename__ = "promotion"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[Id] = mapped_column(unique=True)
    alias: Mapped[Word]
    gate_id: Mapped[Id | None] = mapped_column(ForeignKey("gate.id"))
    from_version: Mapped[Id | None] = mapped_column(ForeignKey("model_version.id"))
    to_version: Mapped[Id] = mapped_column(ForeignKey("model_version.id"))
    stage: Mapped[Word]
    override: Mapped[bool] = mapped_column(default=False)
    actor_id: Mapped[Id | None]
    why: Mapped[FreeString | None]
    undoes: Mapped[Id | None] = mapped_column(unique=True)
    """For a rollback: the promotion that it takes back."""
    created_at: Mapped[float] = mapped_column(default=now)


class Experiment(Base):
    """A split of traffic between versions, with its always-valid test."""

    __tablename__ = "experiment"
    id: Mapped[Id] = mapped_column(primary_key=True)
    arms: Mapped[JsonList]
    allocation: Mapped[Json]
    salt: Mapped[Word]
    test: Mapped[Word]
    alpha: Mapped[float]
    started_at: Mapped[float | None]
    stopped_at: Mapped[float | None]
    stop_reason: Mapped[FreeString | None]
