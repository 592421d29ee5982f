"""Evals that the gate asks: which ones (the operator says), and that every candidate and the live version meet them.

The gate itself only reads completed runs (`tutee/evaluate/gate.py`); here the runs are queued, once for each version
and data, and the candidate is judged again when one ends.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.errors import InvalidInput
from tutee.evaluate.eval_data import data_sha
from tutee.evaluate.gate import judge
from tutee.serve.access.auth import MEMBER, OPERATOR, CallerDep
from tutee.serve.body import Body, Fields
from tutee.serve.evals.request import read_run_source
from tutee.serve.live import ALIAS
from tutee.serve.replies import page_of, reply
from tutee.serve.services import ServicesDep
from tutee.store import Store
from tutee.store.schema import Eval, EvalRun, GateEval, ModelVersion

router = APIRouter(prefix="/v1/tutee/gate/evals")

ROLES = ("block", "warn")
MARGIN = 0.05
MOST_CANDIDATES = 8
"""The newest ones; older candidates are examined when somebody starts a run of theirs."""


@router.get("", openapi_extra=MEMBER)
def list_gate_evals(services: ServicesDep) -> Response:
    """The evals that the gate asks."""
    return page_of([_view(asked, definition) for asked, definition in services.store.gate_evals.list()], False)


@router.put("/{name}", openapi_extra=OPERATOR)
def set_gate_eval(name: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Make an eval one of the gate's checks, on a data source without a model: the model is whoever is judged."""
    definition = services.store.evals.get(name, caller.id)
    body.need("data_source")
    raw = body.object("data_source")
    assert raw is not None
    if raw.raw.get("model") is not None:
        raw.refuse("model", "must be left out: the gate asks candidate and live version", "invalid_value")
    for field in raw.raw:
        raw.take(field)
    source = {field: value for field, value in raw.raw.items() if field != "model"}
    if source.get("type") == "jsonl":
        raise InvalidInput(
            "'data_source.type' is 'jsonl', which asks no model; the gate needs 'completions' or 'responses'.",
            param="data_source.type",
            code="invalid_value",
        )
    read_run_source(Fields({"data_source": source | {"model": ALIAS}}), definition.data_source_config)
    role = body.choice("role", ROLES) or "block"
    margin = body.number("margin", 0, 1)
    margin = MARGIN if margin is None else margin
    body.close()
    row = services.store.gate_evals.set(name, caller.id, source, data_sha(source), role, margin)
    services.evals.wake()
    return reply(_view(row, definition))


@router.delete("/{name}", openapi_extra=OPERATOR)
def remove_gate_eval(name: str, services: ServicesDep) -> Response:
    """The gate asks it no more."""
    services.store.gate_evals.delete(name)
    return reply({"id": name, "object": "gate.eval", "deleted": True})


def _view(row: GateEval, definition: Eval) -> dict[str, Any]:
    return {
        "id": row.eval_id,
        "object": "gate.eval",
        "name": definition.name,
        "role": row.role,
        "margin": row.margin,
        "data_source": row.data_source,
        "created_at": int(row.created_at),
    }


class GateRuns:
    """The runs that the gate waits for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def enqueue(self) -> None:
        """Queue what is missing: each of the gate's evals once for the live version and for each new candidate."""
        for asked, definition in self._store.gate_evals.list():
            for version in (self._store.versions.live(), *self._candidates()):
                if self._store.eval_runs.newest(asked.eval_id, asked.data_sha, version.id) is None:
                    self._store.eval_runs.add(
                        asked.eval_id,
                        asked.actor_id,
                        f"gate: {version.name}",
                        {**asked.data_source, "model": version.name},
                        asked.data_sha,
                        model=version.name,
                        version_id=version.id,
                        metadata={"gate": definition.name[:512]},
                    )

    def finished(self, run: EvalRun) -> None:
        """Judge again whoever a run of the gate's says something about."""
        if run.version_id is None or not any(
            (asked.eval_id, asked.data_sha) == (run.eval_id, run.data_sha) for asked, _ in self._store.gate_evals.list()
        ):
            return
        live = self._store.versions.live()
        for candidate in self._candidates():
            if run.version_id in (candidate.id, live.id):
                judge(self._store, candidate.id)

    def _candidates(self) -> list[ModelVersion]:
        """The newest candidates that were examined: those that the gate has said a first word on."""
        candidates = self._store.versions.list("candidate")[-MOST_CANDIDATES:]
        judged = self._store.gates.latest_for([version.id for version in candidates])
        return [version for version in candidates if version.id in judged]
