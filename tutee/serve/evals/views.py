"""OpenAI's objects of evals: `eval`, `eval.run` and `eval.run.output_item`.

The strict client wants every field: `error` is an object with empty strings where there is no error, numbers that
nobody asked for are the defaults.
"""

from __future__ import annotations

from typing import Any

from tutee.serve.evals.request import schema_shown
from tutee.serve.evals.runner import NO_ERROR
from tutee.store.schema import Eval, EvalItem, EvalRun

USAGE = ("invocation_count", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")


def eval_view(row: Eval) -> dict[str, Any]:
    """An `eval`."""
    config = dict(row.data_source_config)
    shown: dict[str, Any] = {"type": config["type"], "schema": schema_shown(config)}
    if config["type"] != "custom":
        shown["metadata"] = config.get("metadata") or {}
    return {
        "id": row.id,
        "object": "eval",
        "name": row.name,
        "created_at": int(row.created_at),
        "data_source_config": shown,
        "testing_criteria": list(row.testing_criteria),
        "metadata": dict(row.metadata_),
    }


def report_path(run: EvalRun) -> str:
    """Where a run can be read by people."""
    return f"/v1/evals/{run.eval_id}/runs/{run.id}/report"


def run_view(row: EvalRun, origin: str) -> dict[str, Any]:
    """An `eval.run`; `origin` is the server as its caller knows it (`http://host:port`)."""
    return {
        "id": row.id,
        "object": "eval.run",
        "eval_id": row.eval_id,
        "name": row.name,
        "status": row.status,
        "model": row.model or "",
        "created_at": int(row.created_at),
        "data_source": row.data_source,
        "error": NO_ERROR | dict(row.error or {}),
        "metadata": dict(row.metadata_),
        "result_counts": {
            "total": row.passed + row.failed + row.errored,
            "passed": row.passed,
            "failed": row.failed,
            "errored": row.errored,
        },
        "per_testing_criteria_results": [
            {"testing_criteria": name, "passed": passed, "failed": failed}
            for name, (passed, failed) in row.criteria.items()
        ],
        "per_model_usage": [
            {"model_name": model, **{name: counts.get(name, 0) for name in USAGE}}
            for model, counts in row.usage.items()
        ],
        "report_url": origin + report_path(row),
    }


def item_view(row: EvalItem, run: EvalRun) -> dict[str, Any]:
    """An `eval.run.output_item`."""
    return {
        "id": row.id,
        "object": "eval.run.output_item",
        "eval_id": run.eval_id,
        "run_id": row.run_id,
        "created_at": int(row.created_at),
        "status": row.status,
        "datasource_item_id": row.position,
        "datasource_item": row.item,
        "sample": row.sample,
        "results": list(row.results),
    }
