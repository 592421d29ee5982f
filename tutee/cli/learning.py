"""`tutee improve`, `tutee train` and `tutee jobs`: from feedback or files to a new version, watched in the terminal."""

from __future__ import annotations

import json as json_text
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress

from tutee.cli.output import bar, err, out, show_json, show_table, when
from tutee.cli.place import open_store, settings_of
from tutee.cli.versions import show_gate
from tutee.errors import InvalidInput, TuteeError
from tutee.lock import is_held
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.schema import Job

POLL_SECONDS = 0.5
ENDED = ("succeeded", "failed", "cancelled")
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value; unknown keys are errors. May be repeated.")
]

jobs = typer.Typer(help="Training jobs: list, show, events, cancel.", no_args_is_help=True)


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


def train(
    context: typer.Context,
    method: Annotated[Literal["supervised", "dpo"], typer.Argument(help="How to learn.")],
    data: Annotated[Path, typer.Option(help="Training file in OpenAI's JSONL format.", exists=True, dir_okay=False)],
    model: Annotated[str, typer.Option(help="What to start from: `chat`, a version or the base.")] = "chat",
    validation: Annotated[Path | None, typer.Option(help="Validation file.", exists=True, dir_okay=False)] = None,
    suffix: Annotated[str | None, typer.Option(help="A word in the new version's name.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    set_: SetOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print the job as JSON at the end.")] = False,
) -> None:
    """Train a version on a file: the same job that `fine_tuning.jobs.create` makes."""
    settings = settings_of(context)
    with open_store(settings) as store:
        owner = store.actors.get_or_create("owner").id
        files = [None if path is None else add_file(store, path, owner) for path in (data, validation)]
        config = {"hyperparameters": parse_settings(set_)}
        job = store.jobs.add(
            method,
            model,
            config,
            actor_id=owner,
            training_file=files[0],
            validation_file=files[1],
            suffix=suffix,
            seed=seed,
        )
        job = follow(settings, store, job.id)
        finish(store, job, json)


def add_file(store: Store, path: Path, actor_id: str) -> str:
    with path.open("rb") as stream:
        return store.files.add(stream, path.name, "fine-tune", actor_id).id


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` options as a dict; values are JSON where they can be, text otherwise."""
    settings: dict[str, Any] = {}
    for pair in pairs or []:
        key, separator, text = pair.partition("=")
        if not separator:
            raise InvalidInput(f"--set {pair}: write key=value.", param="--set")
        try:
            settings[key] = json_text.loads(text)
        except json_text.JSONDecodeError:
            settings[key] = text
    return settings


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


def follow(settings: Settings, store: Store, job_id: str) -> Job:
    """Wait for a job with a progress bar. When no worker runs on this home, start one for as long as it is needed."""
    command = [
        sys.executable,
        "-m",
        "tutee",
        "--home",
        str(settings.home),
        "--database",
        settings.url,
        "worker",
        "--once",
    ]
    own = None if is_held(settings.home / "worker.lock") else subprocess.Popen(command)
    try:
        with bar("waiting for the worker") as progress:
            while (job := store.jobs.get(job_id)).status not in ENDED:
                draw(progress, job, store)
                if own is not None and own.poll() is not None and store.jobs.get(job_id).status not in ENDED:
                    raise TuteeError(
                        f"The worker ended with status {own.returncode}; job {job_id} waits for the next one."
                    )
                time.sleep(POLL_SECONDS)
        return job
    except KeyboardInterrupt:
        err.print(f"Not waiting any longer; `tutee jobs cancel {job_id}` stops the job, a worker goes on with it.")
        raise
    finally:
        if own is not None and own.poll() is None:
            own.terminate()
            own.wait(30)


def draw(progress: Progress, job: Job, store: Store) -> None:
    """One line: stage, step, newest loss, health."""
    at = job.progress or {}
    if not at.get("total_steps"):
        progress.update(progress.tasks[0].id, description=str(at.get("stage") or job.status), completed=0, note="")
        return
    loss = store.jobs.metrics(job.id).get("loss") or store.jobs.metrics(job.id).get("train_loss")
    note = f"{at['step']}/{at['total_steps']}" + (
        f"  loss {loss[-1][1]:.3f}" if loss and loss[-1][1] is not None else ""
    )
    progress.update(
        progress.tasks[0].id,
        description=f"{at['stage']}",
        completed=at["step"] / at["total_steps"],
        note=f"{note}  {at.get('health') or ''}",
    )


def finish(store: Store, job: Job, json: bool) -> None:
    """Say how it ended: the version and the gate's word, or the error."""
    version = store.versions.get(job.version_id) if job.version_id else None
    gate = store.gates.latest(version.id) if version else None
    if json:
        verdict = {"verdict": gate.verdict, "reasons": gate.reasons} if gate else None
        name = version.name if version else None
        show_json({"id": job.id, "status": job.status, "error": job.error, "version": name, "gate": verdict})
    elif job.status != "succeeded":
        error = job.error or {}
        err.print(f"[red]{job.status}[/] {job.id}: {error.get('message', '')}")
    else:
        assert version is not None
        out.print(f"Version {version.number} is [bold]{version.name}[/]")
        if gate is not None:
            show_gate(gate)
            out.print(f"Put it live with `tutee promote {version.number}`." if gate.verdict == "pass" else "")
    if job.status != "succeeded":
        raise typer.Exit(1)


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
            out.print(f"{when(event.created_at)}  {event.level:<5}  {event.message}", markup=False)


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
