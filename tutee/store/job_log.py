"""What a job writes while it runs: events for people, metrics for curves, checkpoints on disk.

Three kinds of events: `message`, `metrics` (a step's numbers in `data`), and `status`, one for each change of a job's
status, which OpenAI's clients see as a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput
from tutee.ids import new_id
from tutee.store.database import Database
from tutee.store.paging import paginate
from tutee.store.records import Page
from tutee.store.schema import JobCheckpoint, JobEvent, JobMetric, now

LEVELS = ("info", "warn", "error")


class JobLog:
    """The log side of `Jobs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def event(self, id: str, level: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Add a line to the job's log.

        Raises:
            InvalidInput: a level that is not info, warn or error.
        """
        if level not in LEVELS:
            raise InvalidInput(f"'level' must be one of {', '.join(LEVELS)}.", param="level", code="invalid_value")
        with self._database.write() as session:
            add_event(session, id, level, message, data)

    def events(self, id: str, limit: int = 20, after: str | None = None) -> Page[JobEvent]:
        """The job's log, newest first."""
        with self._database.read() as session:
            statement = select(JobEvent).where(JobEvent.job_id == id)
            return paginate(session, statement, JobEvent.seq, JobEvent.id, limit=limit, after=after)

    def metric(self, id: str, step: int, values: Mapping[str, float]) -> None:
        """Record one step's numbers. A step that is run again after a crash replaces what it said the first time."""
        with self._database.write(durable=False) as session:
            session.execute(
                delete(JobMetric).where(
                    JobMetric.job_id == id, JobMetric.step == step, JobMetric.name.in_(list(values))
                )
            )
            session.add_all(
                JobMetric(job_id=id, name=name, step=step, value=float(value) if math.isfinite(value) else None)
                for name, value in values.items()
            )

    def metrics(self, id: str) -> dict[str, list[tuple[int, float | None]]]:
        """Name → (step, value) in order of steps; None is a number that was not finite."""
        statement = select(JobMetric.name, JobMetric.step, JobMetric.value).where(JobMetric.job_id == id)
        series: dict[str, list[tuple[int, float | None]]] = {}
        with self._database.read() as session:
            for name, step, value in session.execute(statement.order_by(JobMetric.name, JobMetric.step)):
                series.setdefault(name, []).append((step, value))
        return series

    def checkpoint(
        self, id: str, step: int, path: str, metrics: Mapping[str, Any] | None = None, name: str | None = None
    ) -> JobCheckpoint:
        """Record a checkpoint that is complete on disk; one of the same step is replaced.

        Args:
            path: relative to the home folder.
            name: of the model that can be sampled from it, if there is one.
        """
        with self._database.write() as session:
            session.execute(delete(JobCheckpoint).where(JobCheckpoint.job_id == id, JobCheckpoint.step == step))
            row = JobCheckpoint(
                id=new_id("ftckpt"),
                job_id=id,
                step=step,
                path=str(path),
                metrics=dict(metrics or {}),
                fine_tuned_model_checkpoint=name,
                created_at=now(),
            )
            session.add(row)
            return row

    def checkpoints(self, id: str, limit: int = 10, after: str | None = None) -> Page[JobCheckpoint]:
        """The job's checkpoints, the last step first."""
        with self._database.read() as session:
            statement = select(JobCheckpoint).where(JobCheckpoint.job_id == id)
            return paginate(session, statement, JobCheckpoint.step, JobCheckpoint.id, limit=limit, after=after)


def add_event(
    session: Session,
    job_id: str,
    level: str,
    message: str,
    data: Mapping[str, Any] | None = None,
    status: str | None = None,
) -> None:
    """A log line inside somebody's transaction; `status` when it says that the job's status is this one now."""
    if status is not None:
        data = {"status": status}
    session.add(
        JobEvent(
            id=new_id("ftevent"),
            job_id=job_id,
            type="status" if status is not None else "message" if data is None else "metrics",
            level=level,
            message=message,
            data=None if data is None else dict(data),
            created_at=now(),
        )
    )
