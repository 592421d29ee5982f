"""Native routes of versions: lineage, scores and verdicts; judge again, promote, reject, roll back, trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.errors import InvalidInput, NotFound
from tutee.evaluate.gate import judge
from tutee.serve.access.acting import acting
from tutee.serve.access.auth import MEMBER, OPERATOR, Caller, CallerDep, owned
from tutee.serve.body import Body
from tutee.serve.native.feedback import with_use
from tutee.serve.native.views import version_ref
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.store.schema import Evaluation, Gate, ModelVersion, Promotion

router = APIRouter(prefix="/v1/tutee")

LONGEST_REASON = 2000


@router.get("/versions", openapi_extra=MEMBER)
def list_versions(services: ServicesDep) -> Response:
    """Every version that the caller's project may use, newest first."""
    rows = [version for version in services.store.versions.list()[::-1] if acting.get().sees(version)]
    return page_of(version_views(services, rows), False)


@router.get("/versions/{name}", openapi_extra=MEMBER)
def get_version(name: str, services: ServicesDep) -> Response:
    """One version by id, name, number or alias (`chat`)."""
    return reply(version_views(services, [named(services, name)])[0])


@router.post("/versions/{name}/gate", openapi_extra=MEMBER)
def judge_again(name: str, services: ServicesDep) -> Response:
    """Judge a candidate with the votes so far."""
    return reply(gate_view(judge(services.store, named(services, name).id)))


@router.post("/versions/{name}/promote", openapi_extra=OPERATOR)
def promote(name: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Make a version live. Streams that run finish on the version they began with."""
    version = named(services, name)
    override = body.boolean("override") or False
    why = body.string("reason", most=LONGEST_REASON)
    if override and not (why or "").strip():
        raise InvalidInput("An override needs a 'reason', which is kept.", param="reason", code="reason_required")
    services.live.serve(version)  # what cannot be loaded must not go live
    gate = services.store.gates.latest(version.id)
    promotion = services.store.promotions.promote(
        version.id, caller.id, why=why, override=override, gate_id=gate.id if gate else None
    )
    services.live.refresh()
    return reply(_moved(services, promotion))


@router.post("/versions/{name}/reject", openapi_extra=OPERATOR)
def reject(name: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Say no to a candidate, and why."""
    version = named(services, name)
    reason = body.need_string("reason", most=LONGEST_REASON)
    rejected = services.store.versions.reject(version.id, caller.id, reason)
    return reply(version_views(services, [rejected])[0])


@router.post("/rollback", openapi_extra=OPERATOR)
def rollback(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Take the last promotion back."""
    promotion = services.store.promotions.rollback(caller.id, why=body.string("reason", most=LONGEST_REASON))
    services.live.refresh()
    return reply(_moved(services, promotion))


@router.get("/trace/{name}", openapi_extra=owned("feedback"))
def trace(name: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Which versions learned from a piece of feedback, or which feedback made a version."""
    if name.startswith("fb-"):
        return reply(_trace_feedback(name, caller, services))
    version = named(services, name)
    rows = services.store.feedback.get_many(services.store.versions.feedback_ids(version.id))
    own = [row for row in rows if row.actor_id == caller.id or sees_all(caller)]
    return reply(
        {
            "version": version_views(services, [version])[0],
            "feedback": with_use(own, services),
            "others": len(rows) - len(own),
        }
    )


def _trace_feedback(id: str, caller: Caller, services: Services) -> dict[str, Any]:
    row = services.store.feedback.get(id, None if sees_all(caller) else caller.id)
    found = services.store.snapshots.containing(id)
    return {
        "feedback": with_use([row], services)[0],
        "rows": [{"snapshot_sha": item.snapshot_sha, "split": item.split, "kind": item.kind} for _, item in found],
        "versions": version_views(services, services.store.versions.learned_from(id)),
    }


def sees_all(caller: Caller) -> bool:
    """Whether other people's feedback may be shown: only to the owner of the server."""
    return caller.operator and caller.handle == "owner"


def named(services: Services, name: str) -> ModelVersion:
    """The version that a path names, whatever its state; NotFound otherwise, also when it is another project's."""
    version = services.store.versions.get(name)
    if not acting.get().sees(version):
        raise NotFound(f"There is no version {name!r}.", param="model", code="model_not_found")
    return version


def version_views(services: Services, versions: Sequence[ModelVersion]) -> list[dict[str, Any]]:
    """Versions with their scores and verdicts, in a fixed number of queries."""
    ids = [version.id for version in versions]
    scores = services.store.evaluations.for_versions(ids)
    gates = services.store.gates.latest_for(ids)
    counts, erased = services.store.versions.feedback_counts(), services.store.versions.erased_counts()
    return [
        {
            "id": version.id,
            "number": version.number,
            "name": version.name,
            "kind": version.kind,
            "state": version.state,
            "parent_id": version.parent_id,
            "snapshot_sha": version.snapshot_sha,
            "job_id": version.job_id,
            "created_at": int(version.created_at),
            "weights_sha256": version.weights_sha256,
            "scores": [_score_view(score) for score in scores.get(version.id, [])],
            "gate": gate_view(gates[version.id]) if version.id in gates else None,
            "feedback_count": counts.get(version.id, 0),
            "erased_count": erased.get(version.id, 0),
            "card": dict(version.card),
        }
        for version in versions
    ]


def _score_view(score: Evaluation) -> dict[str, Any]:
    names = ("suite", "n", "estimate", "ci_lo", "ci_hi", "role", "method")
    return {name: getattr(score, name) for name in names} | {"baseline": score.baseline_id}


def gate_view(gate: Gate) -> dict[str, Any]:
    """A verdict with the reason of every check."""
    return {
        "id": gate.id,
        "verdict": gate.verdict,
        "checks": [_check_view(check) for check in gate.checks],
        "reasons": list(gate.reasons),
        "e_value": gate.e_value,
        "created_at": int(gate.created_at),
    }


def _check_view(check: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": None} | dict(check)


def _moved(services: Services, promotion: Promotion) -> dict[str, Any]:
    before = promotion.from_version
    return {
        "from": None if before is None else version_ref(services.store.versions.get(before)),
        "to": version_ref(services.store.versions.get(promotion.to_version)),
        "at": int(promotion.created_at),
    }
