"""The table where serving and training meet: jobs, taken by workers under a lease.

A worker leases a job for some seconds and renews the lease while it works. A worker that dies stops renewing; once the
lease has run out the next `lease()` hands the same job out again, and its folder and checkpoints say where to go on.

    validating_files ─▶ queued ─▶ running ─▶ succeeded | failed | cancelled
              ╰───────────┴── paused ──┴─▶ (resumed) queued

Somebody who wants to hear of a job's changes (a webhook) reads `Jobs.changes`: every change of status is a row of the
job's log, written in the transaction that makes it, under a sequence number that only grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.database import Database, to_json
from tutee.store.job_log import JobLog, add_event
from tutee.store.paging import paginate
from tutee.store.records import Page
from tutee.store.schema import Job, now
from tutee.store.webhooks import announce

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
        status: Literal["queued", "validating_files"] = "queued",
    ) -> Job:
        """Queue a job.

        Args:
            method: supervised, dpo, improve …; the worker knows them.
            model: name of the version or base to start from.
            config: settings of the method, as JSON.
            status: `validating_files` when a worker shall read the files before the job waits for its turn.
        """
        with self._database.write() as session:
            job = Job(
                id=new_id("ftjob"),
                actor_id=actor_id,
                method=method,
                status=status,
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
            said = "The job is queued." if status == "queued" else "The job was created; its files are being checked."
            add_event(session, job.id, "info", said, status=status)
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
            for dead in session.scalars(select(Job).where(Job.status == "running", Job.pause_requested, ~held)):
                _pause(session, dead)
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
                if job.pause_requested:
                    _pause(session, job)
                else:
                    add_event(session, id, "info", "The worker was stopped; the job waits to go on.", status="queued")

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
            _refuse_ended(job)
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

    def unvalidated(self) -> Job | None:
        """The oldest job whose files nobody has checked yet."""
        with self._database.read() as session:
            waiting = select(Job).where(Job.status == "validating_files").order_by(Job.created_at, Job.id)
            return session.scalars(waiting.limit(1)).first()

    def validated(self, id: str, config: Mapping[str, Any]) -> Job:
        """The files are good: the job waits for its turn, with settings in which every `auto` is a number now. Without
        effect when somebody cancelled or paused it meanwhile."""
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            if job.status == "validating_files":
                job.config = dict(config)
                job.status = "queued"
                add_event(session, id, "info", "The files are valid; the job is queued.", status="queued")
            return job

    def request_pause(self, id: str) -> Job:
        """Pause a waiting job now; ask the worker of a running one to let go of it (it polls `pausing`).

        Raises:
            NotFound: no such job.
            InvalidInput: it has ended (code job_ended) or is paused already (code job_paused).
        """
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            _refuse_ended(job)
            if job.status == "paused":
                raise InvalidInput(f"Job {id} is paused already.", param="fine_tuning_job_id", code="job_paused")
            job.pause_requested = True
            if job.status == "running" and job.lease_expires is not None and job.lease_expires > now():
                add_event(session, id, "info", "Pausing after the step that runs now.")
            else:
                _pause(session, job)
            return job

    def resume(self, id: str) -> Job:
        """Put a paused job back where it was: to its checked files and its last checkpoint. Takes back a pause that
        has not happened yet.

        Raises:
            NotFound: no such job.
            InvalidInput: it has ended (code job_ended), or is not paused (code job_not_paused).
        """
        with self._database.write(lock="jobs") as session:
            job = _require(session, id)
            _refuse_ended(job)
            if not job.pause_requested:
                message = f"Job {id} is not paused; it is {job.status}."
                raise InvalidInput(message, param="fine_tuning_job_id", code="job_not_paused")
            job.pause_requested = False
            if job.status == "paused":
                job.status = job.progress.get("paused_while", "queued")
                add_event(session, id, "info", "The job was resumed and waits to go on.", status=job.status)
            return job

    def pausing(self, id: str) -> bool:
        """Whether somebody asked for the job to pause."""
        return self.get(id).pause_requested

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

    def list(
        self,
        limit: int = 20,
        after: str | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        actor_id: str | None = None,
        commanded_in: str | None = None,
        methods: Sequence[str] | None = None,
    ) -> Page[Job]:
        """Jobs, newest first.

        Args:
            metadata: only those that carry all of these pairs; empty: only those without any.
            actor_id: only those that this actor started, and those that a command started in the project
                `commanded_in`, if there is one.
            methods: only those of these methods.
        """
        statement = select(Job)
        if actor_id is not None:
            commanded = and_(Job.actor_id.is_(None), Job.project_id == commanded_in)
            statement = statement.where(or_(Job.actor_id == actor_id, commanded))
        if methods is not None:
            statement = statement.where(Job.method.in_(methods))
        with self._database.read() as session:
            if metadata is not None:
                rows = session.execute(statement.with_only_columns(Job.id, Job.metadata_)).all()
                wanted = [row.id for row in rows if _carries(row.metadata_, metadata)]
                statement = statement.where(Job.id.in_(wanted))
            return paginate(session, statement, Job.created_at, Job.id, limit=limit, after=after)


def _carries(metadata: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= metadata.items() if wanted else not metadata


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


def _refuse_ended(job: Job) -> None:
    if job.status in ENDED:
        said = "been cancelled" if job.status == "cancelled" else job.status
        raise InvalidInput(f"Job {job.id} has already {said}.", param="fine_tuning_job_id", code="job_ended")


def _pause(session: Session, job: Job) -> None:
    """Nobody works on the job from here on; its folder and checkpoints stay."""
    unchecked = job.status == "validating_files"
    job.progress = {**job.progress, "eta_s": None, "paused_while": "validating_files" if unchecked else "queued"}
    job.status, job.lease_owner, job.lease_expires = "paused", None, None
    add_event(session, job.id, "info", "The job is paused; its last checkpoint is kept.", status="paused")
    audit.append(session, "job.paused", job.id, job.actor_id)


def _end(session: Session, job: Job, status: str, level: str, message: str) -> None:
    job.status, job.finished_at = status, now()
    job.pause_requested = False
    job.lease_owner = job.lease_expires = None
    add_event(session, job.id, level, message, status=status)
    announce(session, job.actor_id, f"fine_tuning.job.{status}", job.id)
    audit.append(session, f"job.{status}", job.id, job.actor_id)


def _canonical(config: Mapping[str, Any]) -> str:
    return to_json(dict(sorted(config.items())))
