"""The page of one eval run: counts, criteria, and every answer with its grades. Plain HTML without scripts.

Everything that people or models wrote is escaped; the policy of the edge forbids scripts, styles and images from
elsewhere, and there are none. Long runs are cut into pages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from tutee.serve.evals.views import report_path
from tutee.store.schema import Eval, EvalItem, EvalRun

STYLE_PATH = "/v1/evals/report.css"
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #8885; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 30rem; }
.pass { color: #18794e; } .fail { color: #cd2b31; } .error { color: #ad5700; }
@media (prefers-color-scheme: dark) { .pass { color: #4cc38a; } .fail { color: #ff6369; } .error { color: #f1a10d; } }
"""
LONGEST = 4000
"""Characters of one cell."""


def report_page(definition: Eval, run: EvalRun, items: Sequence[EvalItem], more_after: str | None) -> str:
    """The whole document; `more_after` is the id that the next page begins behind."""
    total = run.passed + run.failed + run.errored
    title = f"{run.name or run.id} · {definition.name or definition.id}"
    more = ""
    if more_after is not None:
        more = f'<p><a href="{escape(report_path(run))}?after={escape(more_after)}">More rows</a></p>'
    return "".join(
        (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width">',
            f'<link rel="stylesheet" href="{STYLE_PATH}"></head><body><main><h1>{escape(title)}</h1>',
            f"<p>{_status(run)} {_model(run)}</p>",
            f'<p><strong class="pass">{run.passed} passed</strong>, ',
            f'<strong class="fail">{run.failed} failed</strong>, ',
            f'<strong class="error">{run.errored} errors</strong>, {total} in all.</p>',
            _criteria(run),
            _table(
                ("Row", "Result", "Item", "Answer", "Grades"),
                [_row(item) for item in items],
            ),
            more,
            "</main></body></html>",
        )
    )


def _status(run: EvalRun) -> str:
    why = f" ({escape(str(run.error.get('message', '')))})" if run.error else ""
    return f"Status: {escape(run.status)}{why}."


def _model(run: EvalRun) -> str:
    return f"Model: {escape(run.model)}." if run.model else "The answers came with the data."


def _criteria(run: EvalRun) -> str:
    rows = [
        f"<tr><td>{escape(name)}</td><td>{passed}</td><td>{failed}</td></tr>"
        for name, (passed, failed) in run.criteria.items()
    ]
    return _table(("Criterion", "Passed", "Failed"), rows) if rows else ""


def _row(item: EvalItem) -> str:
    said = "".join(_said(message) for message in item.sample.get("output", ()))
    error = item.sample.get("error") or {}
    if error.get("message"):
        said += f"[{error['message']}]"
    grades = "\n".join(_grade(result) for result in item.results)
    status = escape(item.status)
    return (
        f'<tr><td>{item.position + 1}</td><td class="{status}">{status}</td>{_cell(_json(item.item))}{_cell(said)}'
        f"{_cell(grades)}</tr>"
    )


def _said(message: Any) -> str:
    calls = message.get("tool_calls")
    return str(message.get("content") or "") + (_json(calls) if calls else "")


def _grade(result: Any) -> str:
    text = f"{result['name']}: {result['score']:g} ({'passed' if result['passed'] else 'failed'})"
    sample = result.get("sample") or {}
    return text + "".join(f"\n  {flag}: {why}" for flag, why in (sample.get("errors") or {}).items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


def _cell(text: str) -> str:
    cut = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    return f'<td class="text">{escape(cut)}</td>'


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
