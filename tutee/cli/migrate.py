"""`tutee migrate openai`: bring here what can be downloaded there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutee.cli.output import bar, out, show_json, show_table
from tutee.cli.place import open_store, settings_of

migrate = typer.Typer(help="Bring data from elsewhere: openai.", no_args_is_help=True)
SHOWN = 20
"""Rows that could not be taken, on the screen; `--json` has them all."""


@migrate.callback()
def _several() -> None:
    """Keeps `openai` a word of its own while it is the only one."""


@migrate.command("openai")
def openai(
    context: typer.Context,
    export: Annotated[
        Path,
        typer.Option(exists=True, help="A folder, or ChatGPT's zip: chats, files, jobs, evals, stored completions."),
    ],
    actor: Annotated[str, typer.Option("--as", help="Whose data it becomes, by handle.")] = "owner",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read an export of ChatGPT or of OpenAI's API. Running it again adds only what is new; status 0 even with rows
    that could not be taken, which are listed."""
    from tutee.data.openai_export import migrate as bring

    with open_store(settings_of(context)) as store, bar("reading") as progress:
        task = progress.tasks[0].id
        owner = store.actors.get_or_create(actor).id
        report = bring(store, export, owner, lambda name: progress.update(task, note=name))
    if json:
        show_json(report.to_json())
        return
    kinds = [*dict.fromkeys([*report.added, *report.known])]
    rows = [(kind, report.added[kind], report.known[kind]) for kind in kinds]
    show_table("Taken", ["what", "new", "here already"], rows, "nothing: is this an export?")
    if left := {kind: count for kind, count in report.skipped.items() if count}:
        out.print("Left out: " + ", ".join(f"{count} {kind}" for kind, count in left.items()))
    if report.refused:
        refused = [(row.file, row.line or "", row.why) for row in report.refused[:SHOWN]]
        show_table(f"Not taken: {len(report.refused)}", ["file", "line", "why"], refused)
        if len(report.refused) > SHOWN:
            out.print(f"… and {len(report.refused) - SHOWN} more; --json lists them all.")
