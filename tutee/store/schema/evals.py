"""Tables of evals: what is asked of a model, each run of it, each answer with its grades; and which evals the gate
reads."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from tutee.store.schema.base import Base, FreeString, Id, InProject, Json, JsonList, Sha, Word, now


class Eval(Base):
    """Criteria, and the shape of the data that they look at: `eval-…`. Only name and metadata ever change."""

    __tablename__ = "eval"
    id: Mapped[Id] = mapped_column(primary_key=True)
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    name: Mapped[FreeString]
    data_source_config: Mapped[Json]
    testing_criteria: Mapped[JsonList]
    """Graders with their thresholds, as OpenAI's JSON."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    created_at: Mapped[float] = mapped_column(default=now)
    updated_at: Mapped[float] = mapped_column(default=now)


class EvalRun(Base):
    """One run of an eval on some data: `evalrun-…`. Statuses: queued, in_progress, completed, failed, canceled."""

    __tablename__ = "eval_run"
    __table_args__ = (
        Index("eval_run_open", "runner", "status", "created_at"),
        Index("eval_run_compared", "eval_id", "data_sha", "version_id"),
    )
    id: Mapped[Id] = mapped_column(primary_key=True)
    eval_id: Mapped[Id] = mapped_column(ForeignKey("eval.id", ondelete="CASCADE"))
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"), index=True)
    project_id: Mapped[InProject]
    runner: Mapped[Word]
    """Who works on it: `server`, or the id of the job that examines a candidate."""
    name: Mapped[FreeString]
    status: Mapped[Word]
    model: Mapped[FreeString | None]
    """The name that was asked for; None when the data brings its answers along."""
    version_id: Mapped[Id | None] = mapped_column(ForeignKey("model_version.id"))
    """What that name meant when the run began."""
    data_source: Mapped[Json]
    data_sha: Mapped[Sha]
    """Of the data source without the model: runs of two versions with the same one can be compared."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[Json | None]
    passed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    errored: Mapped[int] = mapped_column(default=0)
    criteria: Mapped[Json] = mapped_column(default=dict)
    """Name of each criterion → [passed, failed]."""
    usage: Mapped[Json] = mapped_column(default=dict)
    """Model → tokens, as `tutee.grade.Usage` counts them."""
    created_at: Mapped[float] = mapped_column(default=now)
    finished_at: Mapped[float | None]


class EvalItem(Base):
    """One row of the data with the answer and its grades: `outputitem-…`. At most one a row, whatever was killed when.
    Statuses: pass, fail, error."""

    __tablename__ = "eval_item"
    run_id: Mapped[Id] = mapped_column(ForeignKey("eval_run.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number of the row in the data source."""
    id: Mapped[Id] = mapped_column(unique=True)
    status: Mapped[Word]
    item: Mapped[Json]
    sample: Mapped[Json]
    results: Mapped[JsonList]
    created_at: Mapped[float] = mapped_column(default=now)


class GateEval(Base):
    """An eval that the gate asks: candidate and live version on the same data."""

    __tablename__ = "gate_eval"
    eval_id: Mapped[Id] = mapped_column(ForeignKey("eval.id", ondelete="CASCADE"), primary_key=True)
    data_source: Mapped[Json]
    """Without the model, which is the version that is judged."""
    data_sha: Mapped[Sha]
    role: Mapped[Word]
    """`block` or `warn`."""
    margin: Mapped[float]
    """How much of the pass rate a candidate may lose, from 0 to 1."""
    actor_id: Mapped[Id] = mapped_column(ForeignKey("actor.id"))
    created_at: Mapped[float] = mapped_column(default=now)
