"""/v1/fine_tuning/jobs as the official client speaks it: rows in the job table, which a worker process takes.

Nothing is trained here, so nothing that training does can stop the chat. The objects avoid what the strict client
refuses: `hyperparameters` is never null, `error` is null until the job failed; only `paused`, which OpenAI's own
examples have and its types do not, is outside of them.
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tutee.data.hyperparameters import HYPERPARAMETERS, unsaid
from tutee.errors import InvalidInput, NotFound
from tutee.grade import Grader
from tutee.serve.access.auth import MEMBER, Caller, CallerDep, may_ask_models, owned
from tutee.serve.body import Body
from tutee.serve.fine_tuning.request import OWN, FineTuningRequest, read_fine_tuning_request
from tutee.serve.paging import Limit, metadata_filter
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.store.records import Page
from tutee.store.schema import Job, JobCheckpoint, JobEvent

router = APIRouter(prefix="/v1/fine_tuning/jobs")

ORGANIZATION = "tutee"


@router.post("", openapi_extra=MEMBER)
def create(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Add a job. Its files are read by the worker, which fails the job naming the bad line."""
    asked = read_fine_tuning_request(body)
    version = services.live.find(asked.model)
    services.live.trainable_root(version)
    if asked.grader is not None:
        _check_grader(asked.grader, caller, services)
    _check_files(asked, caller, services)
    job = services.store.jobs.add(
        asked.method,
        version.name,
        asked.config,
        actor_id=caller.id,
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        suffix=asked.suffix,
        seed=asked.seed or 0,
        metadata=asked.metadata,
        status="validating_files",
    )
    return reply(job_view(job))


def _check_grader(grader: Grader, caller: Caller, services: Services) -> None:
    """Refuse now what the caller may not ask for, and what could only fail in every step of the job."""
    param = "method.reinforcement.grader"
    if grader.models():
        may_ask_models(caller)
    for name in sorted(grader.models()):
        try:
            judge = services.live.find(name)
        except NotFound as error:
            raise NotFound(error.message, param=param, code="model_not_found") from None
        if services.live.root(judge).kind == "upstream":
            message = f"'{name}' is on another server; a job's grader asks models of this one."
            raise InvalidInput(message, param=param, code="unsupported_value")
    if grader.sources() and services.settings.python_graders == "off":
        message = "Python graders are switched off on this server (TUTEE_PYTHON_GRADERS)."
        raise InvalidInput(message, param=param, code="unsupported_value")


def _check_files(asked: FineTuningRequest, caller: Caller, services: Services) -> None:
    for param, id in (("training_file", asked.training_file), ("validation_file", asked.validation_file)):
        if id is None:
            continue
        try:
            file = services.store.files.get(id, caller.id)
        except NotFound:
            raise NotFound(f"The file '{id}' does not exist.", param=param, code="file_not_found") from None
        if file.purpose != "fine-tune":
            message = f"The file '{id}' has purpose '{file.purpose}'; upload it with purpose 'fine-tune'."
            raise InvalidInput(message, param=param, code="invalid_purpose")


@router.get("", openapi_extra=MEMBER)
def list_jobs(
    request: Request, caller: CallerDep, services: ServicesDep, limit: Limit = 20, after: str | None = None
) -> Response:
    """The caller's jobs that OpenAI's API knows (improvements are under /v1/tutee/jobs), newest first."""
    page = jobs_of(caller, services, limit, after, metadata_filter(request), tuple(HYPERPARAMETERS))
    return page_of([job_view(job) for job in page], page.has_more)


def jobs_of(
    caller: Caller,
    services: Services,
    limit: int,
    after: str | None,
    metadata: dict[str, str] | None = None,
    methods: tuple[str, ...] | None = None,
) -> Page[Job]:
    """One page of the jobs that a caller may see (`may_see`)."""
    commanded_in = caller.project_id if caller.operator else None
    return services.store.jobs.list(
        limit, after, metadata, actor_id=caller.id, commanded_in=commanded_in, methods=methods
    )


def may_see(job: Job, caller: Caller) -> bool:
    """A job belongs to who started it; one that a command started belongs to whoever runs the server."""
    commanded = job.actor_id is None and job.project_id == caller.project_id
    return job.actor_id == caller.id or (commanded and caller.operator)


def job_of(id: str, caller: Caller, services: Services, methods: tuple[str, ...] | None = None) -> Job:
    """A job that the caller may see, or NotFound."""
    unknown = NotFound(f"There is no job '{id}'.", code="job_not_found")
    try:
        job = services.store.jobs.get(id)
    except NotFound:
        raise unknown from None
    if not may_see(job, caller) or (methods is not None and job.method not in methods):
        raise unknown
    return job


@router.get("/{id}", openapi_extra=owned("job"))
def retrieve(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One job."""
    return reply(job_view(job_of(id, caller, services)))


@router.post("/{id}/cancel", openapi_extra=owned("job"))
def cancel(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Ask a job to end; a running one stops at its next step and keeps its checkpoints."""
    return reply(job_view(cancel_job(id, caller, services)))


def cancel_job(id: str, caller: Caller, services: Services) -> Job:
    """As the route. Raises InvalidInput (400, which no client retries) when the job has ended."""
    job_of(id, caller, services)
    return services.store.jobs.request_cancel(id)


@router.post("/{id}/pause", openapi_extra=owned("job"))
def pause(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Let go of a job: its memory and its turn are given to others, its last checkpoint stays, over restarts too. A
    running one stops at its next step; the status says when that has happened."""
    return reply(job_view(pause_job(id, caller, services)))


def pause_job(id: str, caller: Caller, services: Services) -> Job:
    """As the route. Raises InvalidInput when the job has ended or is paused already."""
    job_of(id, caller, services)
    return services.store.jobs.request_pause(id)


@router.post("/{id}/resume", openapi_extra=owned("job"))
def resume(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Queue a paused job again; it goes on from its last checkpoint and ends with the same numbers as without."""
    return reply(job_view(resume_job(id, caller, services)))


def resume_job(id: str, caller: Caller, services: Services) -> Job:
    """As the route. Raises InvalidInput when the job has ended or is not paused."""
    job_of(id, caller, services)
    return services.store.jobs.resume(id)


@router.get("/{id}/events", openapi_extra=owned("job"))
def list_events(
    id: str, caller: CallerDep, services: ServicesDep, limit: Limit = 20, after: str | None = None
) -> Response:
    """What happened in a job, newest first."""
    job_of(id, caller, services)
    page = services.store.jobs.events(id, limit=limit, after=after)
    return page_of([event_view(event) for event in page], page.has_more)


@router.get("/{id}/checkpoints", openapi_extra=owned("job"))
def list_checkpoints(
    id: str, caller: CallerDep, services: ServicesDep, limit: Limit = 10, after: str | None = None
) -> Response:
    """The checkpoints of a job, newest first."""
    job = job_of(id, caller, services)
    page = services.store.jobs.checkpoints(id, limit=limit, after=after)
    return page_of([checkpoint_view(job, row) for row in page], page.has_more)


def job_view(job: Job) -> dict[str, Any]:
    """OpenAI's `fine_tuning.job` object; each `auto` is a number once the files are checked."""
    asked = job.config.get("hyperparameters", {})
    hyperparameters = unsaid(job.method) | asked
    method: dict[str, Any] = {"type": job.method}
    if job.method in HYPERPARAMETERS:
        given = {key: job.config[key] for key in ("grader", "response_format") if key in job.config}
        ours = {name: job.config[key] for name, key in OWN.items() if key in job.config}
        method[job.method] = {"hyperparameters": hyperparameters, **given, **ours}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": None if job.finished_at is None else int(job.finished_at),
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": ORGANIZATION,
        "status": job.status,
        "hyperparameters": hyperparameters if job.method == "supervised" else {},
        "method": method,
        "training_file": job.training_file or "",
        "validation_file": job.validation_file,
        "result_files": list(job.result_files),
        "trained_tokens": job.trained_tokens,
        "error": _error_view(job),
        "seed": job.seed,
        "suffix": job.suffix,
        "estimated_finish": _estimated_finish(job),
        "integrations": job.config.get("integrations", []),
        "metadata": dict(job.metadata_),
    }


def _error_view(job: Job) -> dict[str, Any] | None:
    if not job.error:
        return None
    return {"code": job.error.get("code"), "message": job.error.get("message"), "param": job.error.get("param")}


def _estimated_finish(job: Job) -> int | None:
    eta = job.progress.get("eta_s")
    return None if job.status != "running" or eta is None else int(time.time() + eta)


def event_view(event: JobEvent) -> dict[str, Any]:
    """OpenAI's `fine_tuning.job.event` object."""
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": "metrics" if event.type == "metrics" else "message",
        "data": event.data,
    }


def checkpoint_view(job: Job, row: JobCheckpoint) -> dict[str, Any]:
    """OpenAI's `fine_tuning.job.checkpoint` object."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(row.created_at),
        "fine_tuned_model_checkpoint": row.fine_tuned_model_checkpoint or "",
        "fine_tuning_job_id": job.id,
        "step_number": row.step,
        "metrics": row.metrics | {"step": row.step},
    }
