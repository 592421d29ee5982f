"""/v1/evals as the official client speaks it: definitions, runs, output items, and a page for people.

A run is a row that `serve/evals/runner.py` works through. Nothing is answered or graded here.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from tutee.errors import InvalidInput, NotFound
from tutee.evaluate.criteria import read_criteria
from tutee.evaluate.eval_data import DataSource, data_sha
from tutee.serve.access.auth import MEMBER, PUBLIC, Caller, CallerDep, may_ask_models, owned
from tutee.serve.body import Body
from tutee.serve.evals.report import STYLE, STYLE_PATH, report_page
from tutee.serve.evals.request import NAME, read_eval_request, read_run_source
from tutee.serve.evals.views import eval_view, item_view, run_view
from tutee.serve.paging import Limit, Order
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.store.schema import Eval

router = APIRouter(prefix="/v1/evals")

RunStatus = Literal["queued", "in_progress", "completed", "canceled", "failed"]
REPORT_ROWS = 100


@router.get(STYLE_PATH.removeprefix("/v1/evals"), openapi_extra=PUBLIC)
def report_style() -> Response:
    """The report's style sheet: the content policy allows none inside the page."""
    return Response(STYLE, media_type="text/css")


@router.post("", openapi_extra=MEMBER)
def create(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """A new eval."""
    asked = read_eval_request(body)
    for criterion in asked.criteria:
        for model in criterion.grader.models():
            services.live.find(model)
    criteria = [criterion.definition for criterion in asked.criteria]
    row = services.store.evals.add(caller.id, asked.name, asked.data_source_config, criteria, asked.metadata)
    return reply(eval_view(row), 201)


@router.get("", openapi_extra=MEMBER)
def list_evals(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "asc",
    order_by: Literal["created_at", "updated_at"] = "created_at",
) -> Response:
    """The caller's evals."""
    page = services.store.evals.list(caller.id, limit, after, order, order_by == "updated_at")
    return page_of([eval_view(row) for row in page], page.has_more)


@router.get("/{id}", openapi_extra=owned("eval"))
def retrieve(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One eval."""
    return reply(eval_view(services.store.evals.get(id, caller.id)))


@router.post("/{id}", openapi_extra=owned("eval"))
def update(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Change the name or the metadata."""
    name, metadata = body.string("name", most=NAME), body.metadata()
    body.close()
    return reply(eval_view(services.store.evals.update(id, caller.id, name=name, metadata=metadata)))


@router.delete("/{id}", openapi_extra=owned("eval"))
def delete(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Forget an eval with all its runs."""
    services.store.evals.delete(id, caller.id)
    return reply({"object": "eval.deleted", "deleted": True, "eval_id": id})


@router.post("/{id}/runs", openapi_extra=owned("eval"))
def create_run(id: str, request: Request, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Queue a run."""
    definition = services.store.evals.get(id, caller.id)
    source = read_run_source(body, definition.data_source_config)
    name, metadata = body.string("name", most=NAME) or "", body.metadata()
    body.close()
    check_run(source, definition, caller, services)
    raw = body.raw["data_source"]
    row = services.store.eval_runs.add(
        id,
        caller.id,
        name,
        raw,
        data_sha(raw),
        model=source.model,
        version_id=None if source.model is None else services.live.find(source.model).id,
        metadata=metadata,
    )
    services.evals.wake()
    return reply(run_view(row, origin(request)), 201)


def check_run(source: DataSource, definition: Eval, caller: Caller, services: Services) -> None:
    """What a run needs must be there before it is queued: the right to ask models, its file, its criteria's Python."""
    graders = [criterion.grader for criterion in read_criteria(list(definition.testing_criteria))]
    if source.model is not None or any(grader.models() for grader in graders):
        may_ask_models(caller)
    if source.source["type"] == "file_id":
        id, at = str(source.source["id"]), "data_source.source.id"
        try:
            file = services.store.files.get(id, caller.id)
        except NotFound:
            raise NotFound(f"The file '{id}' does not exist.", param=at, code="file_not_found") from None
        if file.purpose != "evals":
            message = f"The file '{id}' has purpose '{file.purpose}'; upload it with purpose 'evals'."
            raise InvalidInput(message, param=at, code="invalid_purpose")
    if any(grader.sources() for grader in graders) and services.judges.run_python is None:
        message = "This eval has a Python grader, and Python graders are off here (TUTEE_PYTHON_GRADERS)."
        raise InvalidInput(message, param="eval_id", code="python_graders_off")


@router.get("/{id}/runs", openapi_extra=owned("eval"))
def list_runs(
    id: str,
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "asc",
    status: RunStatus | None = None,
) -> Response:
    """The runs of an eval."""
    services.store.evals.get(id, caller.id)
    page = services.store.eval_runs.list(id, limit, after, order, status)
    return page_of([run_view(row, origin(request)) for row in page], page.has_more)


@router.get("/{id}/runs/{run_id}", openapi_extra=owned("eval"))
def retrieve_run(id: str, run_id: str, request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """One run."""
    return reply(run_view(services.store.eval_runs.get(run_id, caller.id, id), origin(request)))


@router.post("/{id}/runs/{run_id}", openapi_extra=owned("eval"))
@router.post("/{id}/runs/{run_id}/cancel", openapi_extra=owned("eval"))
def cancel_run(id: str, run_id: str, request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """Ask a run to end; the rows that are graded stay."""
    return reply(run_view(services.store.eval_runs.request_cancel(run_id, caller.id, id), origin(request)))


@router.delete("/{id}/runs/{run_id}", openapi_extra=owned("eval"))
def delete_run(id: str, run_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Forget a run; one that is at work stops."""
    services.store.eval_runs.delete(run_id, caller.id, id)
    return reply({"object": "eval.run.deleted", "deleted": True, "run_id": run_id})


@router.get("/{id}/runs/{run_id}/output_items", openapi_extra=owned("eval"))
def list_items(
    id: str,
    run_id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "asc",
    status: Literal["fail", "pass", "error"] | None = None,
) -> Response:
    """The graded answers of a run, in the order of its data."""
    run = services.store.eval_runs.get(run_id, caller.id, id)
    page = services.store.eval_runs.items(run_id, limit, after, order, status)
    return page_of([item_view(row, run) for row in page], page.has_more)


@router.get("/{id}/runs/{run_id}/output_items/{item_id}", openapi_extra=owned("eval"))
def retrieve_item(id: str, run_id: str, item_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One graded answer."""
    run = services.store.eval_runs.get(run_id, caller.id, id)
    return reply(item_view(services.store.eval_runs.item(run_id, item_id), run))


@router.get("/{id}/runs/{run_id}/report", openapi_extra=owned("eval"))
def report(id: str, run_id: str, caller: CallerDep, services: ServicesDep, after: str | None = None) -> Response:
    """A run as a page."""
    definition = services.store.evals.get(id, caller.id)
    run = services.store.eval_runs.get(run_id, caller.id, id)
    page = services.store.eval_runs.items(run_id, REPORT_ROWS, after)
    items = list(page)
    return HTMLResponse(report_page(definition, run, items, items[-1].id if page.has_more else None))


def origin(request: Request) -> str:
    """The server as this caller reached it."""
    host: Any = request.headers.get("host", "localhost")
    return f"{request.url.scheme}://{host}"
