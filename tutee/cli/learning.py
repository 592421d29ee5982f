"""`tutee improve` and `tutee jobs`: from feedback to a new version, and what became of every training job."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from tutee.cli.output import out, plain, show_json, show_table, when
from tutee.cli.place import open_store, settings_of
from tutee.cli.settings_option import SetOption, parse_settings
from tutee.cli.watch import finish, follow

jobs = typer.Typer(help="Training jobs: list, events, follow, pause, resume, cancel.", no_args_is_help=True)


def improve(
    context: typer.Context,
    suffix: Annotated[str | None, typer.Option(help="A word in the new version's name.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    set_: SetOption = None,
    preview: Annotated[bool, typer.Option("--preview", help="Only show what was collected.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the job as JSON at the end.")] = False,
) -> None:
    """Train a new version on all usable feedback, evaluate it and let the gate judge."""
    from tutee.data.from_feedback import collect

    settings = settings_of(context)
    with open_store(settings) as store:
        collected = collect(store)
        if not json or preview:
            show_collected(collected.rows, collected.unusable, json)
        if preview:
            return
        config = {"settings": parse_settings(set_)}
        job = store.jobs.add("improve", store.versions.live().name, config, suffix=suffix, seed=seed)
        job = follow(settings, store, job.id)
        finish(store, job, json)


def show_collected(rows: Any, unusable: Any, json: bool) -> None:
    """What can be learned from, and why the rest cannot."""
    from tutee.data.rows import kind_of

    usable: Counter[tuple[str, str]] = Counter((kind_of(row), row.split) for row in rows)
    reasons = Counter(reason for _, reason in unusable)
    if json:
        show_json({"usable": {f"{kind}/{split}": n for (kind, split), n in usable.items()}, "unusable": dict(reasons)})
        return
    names = {"sft": "to imitate (corrections, demonstrations)", "pair": "better and worse", "unpaired": "good or bad"}
    cells = [(names[kind], usable[kind, "train"], usable[kind, "held_out"]) for kind in names]
    show_table("Usable feedback", ["what", "to train on", "held out"], cells)
    if reasons:
        show_table("Not usable", ["count", "why"], [(n, reason) for reason, n in reasons.most_common()])


@jobs.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The newest jobs."""
    with open_store(settings_of(context)) as store:
        rows = store.jobs.list(limit=limit).data
    if json:
        fields = (
            "id",
            "method",
            "model",
            "status",
            "version_id",
            "fine_tuned_model",
            "created_at",
            "finished_at",
            "error",
        )
        show_json([{field: getattr(row, field) for field in fields} for row in rows])
        return
    cells = [(r.id, r.method, r.status, when(r.created_at), r.fine_tuned_model or "") for r in rows]
    show_table("Jobs", ["id", "method", "status", "made", "version"], cells)


@jobs.command("events")
def events(context: typer.Context, job_id: str, limit: Annotated[int, typer.Option(min=1, max=1000)] = 50) -> None:
    """What a job said, oldest first."""
    with open_store(settings_of(context)) as store:
        store.jobs.get(job_id)
        for event in reversed(store.jobs.events(job_id, limit=limit).data):
            out.print(plain(f"{when(event.created_at)}  {event.level:<5}  {event.message}"))


@jobs.command("follow")
def follow_(context: typer.Context, job_id: str) -> None:
    """Watch a job until it ends."""
    settings = settings_of(context)
    with open_store(settings) as store:
        finish(store, follow(settings, store, job_id), json=False)


@jobs.command("cancel")
def cancel(context: typer.Context, job_id: str) -> None:
    """Stop a job after its current step."""
    with open_store(settings_of(context)) as store:
        out.print(store.jobs.request_cancel(job_id).status)


@jobs.command("pause")
def pause(context: typer.Context, job_id: str) -> None:
    """Let go of a job after its current step; its last checkpoint stays."""
    with open_store(settings_of(context)) as store:
        out.print(store.jobs.request_pause(job_id).status)


@jobs.command("resume")
def resume(context: typer.Context, job_id: str) -> None:
    """Queue a paused job again; it goes on from its last checkpoint."""
    with open_store(settings_of(context)) as store:
        out.print(store.jobs.resume(job_id).status)
