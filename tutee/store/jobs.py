"""The table where serving and training meet: jobs, taken by workers under a lease.

A worker leases a job for some seconds and renews the lease while it works. A worker that dies stops renewing; once the
lease has run out the next `lease()` hands the same job out again, and its folder and checkpoints say where to go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.database import Database, to_json
from tutee.store.job_log import JobLog, add_event
from tutee.store.paging import paginate
from tutee.store.records import Page
from tutee.store.schema import Job, now

ENDED = ("succeeded", "failed", "cancelled")


class Jobs(JobLog):
    """Training runs, from the queue to their end."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)

    def add(
        self,
        method: str,
        model: str,
        config: Mapping[str, Any],
        *,
        actor_id: str | None = None,
        training_file: str | None = None,
        validation_file: str | None = None,
        suffix: str | None = None,
        seed: int = 0,
        snapshot_sha: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Job:
        """Queue a job.

        Args:
            method: supervised, dpo, improve …; the worker knows them.
            model: name of the version or base to start from.
            config: settings of the method, as JSON.
        """
        with self._database.write() as session:
            job = Job(
                id=new_id("ftjob"),
                actor_id=actor_id,
                method=method,
                status="queued",
                model=model,
                config=dict(config),
                config_sha=hashlib.sha256(_canonical(config).encode()).hexdigest(),
                training_file=training_file,
                validation_file=validation_file,
                suffix=suffix,
                seed=seed,
                snapshot_sha=snapshot_sha,
                metadata_=dict(metadata or {}),
                result_files=[],
                progress={},
                created_at=now(),
            )
            session.add(job)
            session.flush()
            add_event(session, job.id, "info", "The job is queued.")
            audit.append(session, "job.add", job.id, actor_id, {"method": method, "model": model})
            return job

    def get(self, id: str) -> Job:
        """The job.

        Raises:
            NotFound: no such job (code job_not_found).
        """
        with self._database.read() as session:
            return _require(session, id)

    def running(self) -> Job | None:
        """The job that a worker holds now, or held when it died."""
        with self._database.read() as session:
            return session.scalars(select(Job).where(Job.status == "running").order_by(Job.id).limit(1)).first()

    def lease(self, worker_id: str, seconds: float, alone: bool = True) -> Job | None:
        """Take the oldest job that waits, or whose worker let the lease run out. Two workers never get the same one.

        Args:
            alone: hand nothing out while another worker holds a job, so that one training runs at a time.
        """
        with self._database.write(lock="jobs") as session:
            moment = now()
            held = Job.lease_expires > moment
            if alone and session.scalar(select(Job.id).where(Job.status == "running", held)) is not None:
                return None
            free = or_(Job.status == "queued", (Job.status == "running") & ~held)
            statement = select(Job).where(free).order_by(Job.created_at, Job.id).limit(1)
            job = session.scalars(statement.with_for_update(skip_locked=True)).first()
            if job is None:
                return None
            if job.status == "running":
                add_event(
                    session,
                    job.id,
                    "warn",
                    "The worker stopped answering; another one goes on from the last checkpoint.",
                )
                _count_death(job)
            job.status = "running"
            job.started_at = job.started_at or moment
            job.lease_owner, job.lease_expires = worker_id, moment + seconds
            job.attempts += 1
            return job

    def renew(self, id: str, worker_id: str, seconds: float) -> bool:
        """Keep the lease for `seconds` from now.

        Returns:
            False when the job is no longer this worker's: it must stop and write nothing more about it.
        """
        with self._database.write(lock="jobs", durable=False) as session:
            job = _require(session, id)
            if job.status != "running" or job.lease_owner != worker_id:
                return False
            job.lease_expires = now() + seconds
            return True

    def release(self, id: str, worker_id: str, *, died: bool = False) -> None:
        """Put a job back into the queue, for a worker that is asked to stop. No effect when it is not this worker's.

        Args:
            died: the worker did not stop by itself, and nothing else around it did; see `deaths`.
        """
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            if job.status == "running" and job.lease_owner == worker_id:
                job.status, job.lease_owner, job.lease_expires = "queued", None, None
                if died:
                    _count_death(job)
                else:
                    job.progress = {**job.progress, "deaths": 0}
                add_event(session, id, "info", "The worker was stopped; the job waits to go on.")

    def finish(
        self,
        id: str,
        *,
        version_id: str | None = None,
        fine_tuned_model: str | None = None,
        trained_tokens: int | None = None,
        result_files: Sequence[str] = (),
    ) -> Job:
        """End a job well. One that has ended already stays as it is."""
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            if job.status not in ENDED:
                job.version_id = version_id
                job.fine_tuned_model = fine_tuned_model
                job.trained_tokens = trained_tokens
                job.result_files = list(result_files)
                _end(session, job, "succeeded", "info", "The job has succeeded.")
            return job

    def fail(self, id: str, code: str, message: str, param: str | None = None) -> Job:
        """End a job badly, with the reason. One that has ended already stays as it is."""
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            if job.status not in ENDED:
                job.error = {"code": code, "message": message, "param": param}
                _end(session, job, "failed", "error", message)
            return job

    def request_cancel(self, id: str) -> Job:
        """Cancel a waiting job now; ask the worker of a running one to stop (it polls `cancelled`).

        Raises:
            NotFound: no such job.
            InvalidInput: it has ended already (code job_ended).
        """
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            if job.status in ENDED:
                raise InvalidInput(f"Job {id} has already {job.status}.", param="fine_tuning_job_id", code="job_ended")
            job.cancel_requested = True
            alive = job.lease_expires is not None and job.lease_expires > now()
            if job.status == "running" and alive:
                add_event(session, id, "info", "Cancelling after the step that runs now.")
            else:
                _end(session, job, "cancelled", "info", "The job was cancelled.")
            return job

    def cancelled(self, id: str) -> bool:
        """Whether somebody asked for the job to stop."""
        return self.get(id).cancel_requested

    def mark_cancelled(self, id: str) -> Job:
        """End a job as cancelled, by its worker. One that has ended already stays as it is."""
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            if job.status not in ENDED:
                _end(session, job, "cancelled", "info", "The job was cancelled.")
            return job

    def set_config(self, id: str, config: Mapping[str, Any]) -> None:
        """Replace the settings, once the worker knows what every `auto` among them means."""
        with self._database.write(lock="jobs") as session:
            _require(session, id).config = dict(config)

    def set_snapshot(self, id: str, sha: str) -> None:
        """Record the snapshot that the job trains on."""
        with self._database.write(lock="jobs") as session:
            _require(session, id).snapshot_sha = sha

    def set_hyperparameters(self, id: str, values: Mapping[str, Any]) -> None:
        """Record what `auto` came to be, as `config["hyperparameters"]`; `config_sha` still names what was asked."""
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            job.config = {**job.config, "hyperparameters": dict(values)}

    def progress(
        self,
        id: str,
        stage: str,
        step: int | None,
        total_steps: int | None,
        eta_s: float | None = None,
        *,
        stages: Sequence[str] | None = None,
        health: str | None = None,
        samples: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Say how far the job is. `stages`, `health` and `samples` (answers that the model just gave) stay as last said
        when None; `eta_s` is in seconds."""
        with self._database.write(lock="jobs", durable=False) as session:
            job = _require(session, id)
            said = {"stage": stage, "step": step, "total_steps": total_steps, "eta_s": eta_s}
            kept = {"stages": list(stages) if stages is not None else None, "health": health, "samples": samples}
            job.progress = {**job.progress, **said, **{key: value for key, value in kept.items() if value is not None}}

    def list(self, limit: int = 20, after: str | None = None, metadata: Mapping[str, str] | None = None) -> Page[Job]:
        """Jobs, newest first; with `metadata`, only those that carry all of these pairs."""
        with self._database.read() as session:
            statement = select(Job)
            if metadata:
                rows = session.execute(select(Job.id, Job.metadata_)).all()
                wanted = [row.id for row in rows if metadata.items() <= row.metadata_.items()]
                statement = statement.where(Job.id.in_(wanted))
            return paginate(session, statement, Job.created_at, Job.id, limit=limit, after=after)


def deaths(job: Job) -> int:
    """How many workers in a row died on this job without getting any further than the first of them."""
    return int(job.progress.get("deaths", 0))


def _count_death(job: Job) -> None:
    facts = job.progress
    stages = facts.get("stages") or []
    place = stages.index(facts["stage"]) if facts.get("stage") in stages else -1
    reached = [place, facts.get("step") or 0]
    further = reached > facts.get("died_at", [-2, 0])
    job.progress = {
        **facts,
        "deaths": 1 if further else deaths(job) + 1,
        "died_at": reached if further else facts["died_at"],
    }


def _require(session: Session, id: str) -> Job:
    job = session.get(Job, id)
    if job is None:
        raise NotFound(f"There is no job {id!r}.", param="fine_tuning_job_id", code="job_not_found")
    return job


def _end(session: Session, job: Job, status: str, level: str, message: str) -> None:
    job.status, job.finished_at = status, now()
    job.lease_owner = job.lease_expires = None
    add_event(session, job.id, level, message)
    audit.append(session, f"job.{status}", job.id, job.actor_id)


def _canonical(config: Mapping[str, Any]) -> str:
    return to_json(dict(sorted(config.items())))
