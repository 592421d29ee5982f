"""Native routes of the circle's middle: what was collected, start an improvement, watch its job, read its snapshot."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.data.from_feedback import Collected, collect
from tutee.errors import InvalidInput
from tutee.serve.access.auth import MEMBER, OPERATOR, CallerDep, owned
from tutee.serve.body import Body
from tutee.serve.fine_tuning.request import SUFFIX
from tutee.serve.fine_tuning.routes import cancel_job, job_of, job_view, jobs_of, pause_job, resume_job
from tutee.serve.native.views import version_ref
from tutee.serve.paging import Limit
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.store.jobs import ENDED
from tutee.store.schema import Job, ModelVersion

router = APIRouter(prefix="/v1/tutee")

ENOUGH_ROWS = 20
"""Rows to train on below which an improvement is likely to learn noise."""


@router.get("/improve", openapi_extra=MEMBER)
def preview(services: ServicesDep) -> Response:
    """What was collected since the live version, what of it can be learned from, and why the rest cannot."""
    live = services.live.chat.version
    collected = collect(services.store, live.id)
    running = _unfinished(services)
    elsewhere = _elsewhere(services, live)
    trainable = sum(row.split == "train" for row in collected.rows)
    return reply(
        {
            "since": version_ref(live),
            "counts": dict(collected.new),
            "usable": dict(collected.usable),
            "unusable": [{"reason": str(reason), "count": count} for reason, count in _by_count(collected)],
            "held_out": dict(collected.held_out),
            "ready": trainable > 0 and running is None and elsewhere is None,
            "advice": elsewhere or _advice(trainable, running),
            "running_job": None if running is None else running.id,
        }
    )


def _elsewhere(services: Services, live: ModelVersion) -> str | None:
    """Why the live version cannot be trained here, if so."""
    try:
        services.live.trainable_root(live)
    except InvalidInput as error:
        return error.message
    return None


def _unfinished(services: Services) -> Job | None:
    """The improvement that is queued or running; more than one at a time would learn the same twice."""
    jobs = services.store.jobs.list(limit=50, methods=["improve"])
    return next((job for job in jobs if job.status not in ENDED), None)


def _by_count(collected: Collected) -> list[tuple[str, int]]:
    return Counter(str(reason) for _, reason in collected.unusable).most_common()


def _advice(trainable: int, running: Job | None) -> str:
    if running is not None and running.pause_requested:
        return "An improvement is paused. Resume it, or cancel it to begin another."
    if running is not None:
        return "An improvement is running; it will show up among the versions."
    if trainable == 0:
        return "Nothing to learn from yet: compare answers, correct them, or give thumbs."
    if trainable < ENOUGH_ROWS:
        return f"Only {trainable} to learn from so far: {ENOUGH_ROWS - trainable} more make a real difference likelier."
    return f"{trainable} examples to learn from. Comparisons and corrections teach the most."


@router.post("/improve", openapi_extra=OPERATOR)
def improve(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Queue an improvement: snapshot, training, new version, evaluations, gate."""
    suffix = body.string("suffix", least=1, most=SUFFIX)
    seed = body.integer("seed", 0, 2**31 - 1)
    settings = body.object("settings")
    settings_given = {} if settings is None else {name: settings.take(name) for name in settings.raw}
    running = _unfinished(services)
    if running is not None:
        way_on = "resume it" if running.status == "paused" else "wait for its version"
        message = f"An improvement is {running.status} already: {running.id}. Cancel it, or {way_on}."
        raise InvalidInput(message, code="improvement_unfinished")
    root = services.live.trainable_root(services.live.chat.version)
    config = {"settings": settings_given} if settings_given else {}
    job = services.store.jobs.add("improve", root.name, config, actor_id=caller.id, suffix=suffix, seed=seed or 0)
    return reply(native_job_view(job, services))


@router.get("/jobs", openapi_extra=MEMBER)
def list_jobs(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
) -> Response:
    """All jobs of the caller, improvements included, newest first."""
    page = jobs_of(caller, services, limit, after)
    return page_of([native_job_view(job, services, series=False) for job in page], page.has_more)


@router.get("/jobs/{id}", openapi_extra=owned("job"))
def get_job(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One job with its progress and its curves."""
    return reply(native_job_view(job_of(id, caller, services), services))


@router.post("/jobs/{id}/cancel", openapi_extra=owned("job"))
def cancel(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Ask a job to end."""
    return reply(native_job_view(cancel_job(id, caller, services), services))


@router.post("/jobs/{id}/pause", openapi_extra=owned("job"))
def pause(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Ask a job to let go after its step; `pause_requested` is true from now on, the status says when it did."""
    return reply(native_job_view(pause_job(id, caller, services), services))


@router.post("/jobs/{id}/resume", openapi_extra=owned("job"))
def resume(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Queue a paused job again, or take back a pause that has not happened yet."""
    return reply(native_job_view(resume_job(id, caller, services), services))


@router.get("/snapshots/{sha}", openapi_extra=OPERATOR)
def get_snapshot(sha: str, services: ServicesDep, rows: bool = False) -> Response:
    """What a snapshot holds; with `rows` the (scrubbed) rows themselves."""
    snapshot = services.store.snapshots.get(sha)
    stored = services.store.snapshots.rows(sha)
    split = Counter(row.split for row in stored)
    view: dict[str, Any] = {
        "sha": snapshot.sha,
        "kind": snapshot.kind,
        "created_at": int(snapshot.created_at),
        "counts": dict(snapshot.counts),
        "split": {"train": split["train"], "held_out": split["held_out"]},
        "parent": snapshot.parent_sha,
    }
    if rows:
        view["rows"] = [
            {"row_sha": row.row_sha, "split": row.split, "kind": row.kind, "payload": row.payload} for row in stored
        ]
    return reply(view)


def native_job_view(job: Job, services: ServicesDep, series: bool = True) -> dict[str, Any]:
    """The fine_tuning.job object and what only our page shows."""
    facts = job.progress
    progress = {
        "stage": facts.get("stage"),
        "stages": facts.get("stages") or [],
        "step": facts.get("step") or 0,
        "total_steps": facts.get("total_steps") or 0,
        "eta_s": facts.get("eta_s"),
        "health": facts.get("health") or "",
        "samples": facts.get("samples") or [],
    }
    return job_view(job) | {
        "progress": progress,
        "series": services.store.jobs.metrics(job.id) if series else {},
        "pause_requested": job.pause_requested,
        "version_id": job.version_id,
        "snapshot_sha": job.snapshot_sha,
    }
