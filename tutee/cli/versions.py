"""`tutee versions`, `promote`, `reject`, `rollback` and `trace`: what there is, what is live, and whence."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tutee.cli.output import out, plain, show_json, show_table, styled, when
from tutee.cli.place import find_version, open_store, settings_of
from tutee.errors import InvalidInput
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.schema import Feedback, Gate, ModelVersion

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MARKS = {"pass": "[green]✓[/]", "fail": "[red]✗[/]", "warn": "[yellow]![/]", "insufficient": "[yellow]?[/]"}


def show_gate(gate: Gate) -> None:
    """The verdict and what every check said."""
    out.print(styled("Gate: [bold]{}[/]", gate.verdict))
    for check in gate.checks:
        warns = check["verdict"] == "fail" and not check["blocking"]
        mark = MARKS["warn" if warns else check["verdict"]]
        out.print(styled(f"  {mark} {{}}: {{}}", check["name"], check["reason"]))


def versions(context: typer.Context, json: JsonOption = False) -> None:
    """Every version with its lineage: parent, snapshot, job, scores, verdict."""
    with open_store(settings_of(context)) as store:
        rows = store.versions.list()
        ids = [row.id for row in rows]
        scores, gates = store.evaluations.for_versions(ids), store.gates.latest_for(ids)
        counts, erased = store.versions.feedback_counts(), store.versions.erased_counts()
        numbers = {row.id: row.number for row in rows}
    if json:
        fields = (
            "id",
            "number",
            "name",
            "kind",
            "state",
            "parent_id",
            "snapshot_sha",
            "job_id",
            "weights_sha256",
            "created_at",
        )
        show_json(
            [
                {field: getattr(row, field) for field in fields}
                | {"feedback_count": counts.get(row.id, 0), "erased_count": erased.get(row.id, 0)}
                | {"scores": {s.suite: s.estimate for s in scores.get(row.id, [])}}
                | {"verdict": gates[row.id].verdict if row.id in gates else None}
                for row in rows
            ]
        )
        return
    cells = [
        (
            styled("[bold]{}[/]", row.number) if row.state == "live" else row.number,
            row.state,
            row.name,
            numbers.get(row.parent_id or "", ""),
            (row.snapshot_sha or "")[:10],
            (row.job_id or "")[-8:],
            counts.get(row.id, 0),
            gates[row.id].verdict if row.id in gates else "",
            when(row.created_at),
        )
        for row in rows
    ]
    show_table("Versions", ["", "state", "name", "parent", "snapshot", "job", "feedback", "gate", "made"], cells)


def promote(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Id, number or name.")],
    reason: Annotated[str | None, typer.Option(help="Why; kept in the audit log.")] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Although the gate did not pass; needs --reason.")
    ] = False,
) -> None:
    """Put a version live. A running server moves within a second; answers that stream now finish on the old one."""
    settings = settings_of(context)
    with open_store(settings) as store:
        row = find_version(store, version)
        check_weights(settings, row)
        gate = store.gates.latest(row.id)
        owner = store.actors.get_or_create("owner").id
        store.promotions.promote(row.id, owner, why=reason, override=override, gate_id=gate.id if gate else None)
        erased = store.versions.erased_counts().get(row.id, 0)
    out.print(f"live: version {row.number}, {row.name}")
    say_erased(erased)


def check_weights(settings: Settings, version: ModelVersion) -> None:
    """Refuse a version whose weights are gone or damaged: the server could not answer with it."""
    from tutee.model.weights import weights_sha256

    if version.kind == "upstream" or not version.folder:
        return
    folder = settings.home / version.folder
    if not folder.is_dir() or weights_sha256(folder) != version.weights_sha256:
        said = f"The weights of {version.name} in {folder} are gone or damaged; `tutee doctor` says more."
        raise InvalidInput(said, param="version", code="damaged_weights")


def reject(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Id, number or name.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")],
) -> None:
    """Say no to a candidate."""
    with open_store(settings_of(context)) as store:
        row = find_version(store, version)
        store.versions.reject(row.id, store.actors.get_or_create("owner").id, reason)
    out.print(f"rejected: version {row.number}, {row.name}")


def rollback(
    context: typer.Context, reason: Annotated[str | None, typer.Option(help="Why; kept in the audit log.")] = None
) -> None:
    """Take the last promotion back: the version before it is live again."""
    with open_store(settings_of(context)) as store:
        promotion = store.promotions.rollback(store.actors.get_or_create("owner").id, why=reason)
        row = store.versions.get(promotion.to_version)
    out.print(f"live: version {row.number}, {row.name}")


def trace(
    context: typer.Context,
    id_: Annotated[str, typer.Argument(metavar="ID", help="A feedback id (fb-…), or a version's id, number or name.")],
    json: JsonOption = False,
) -> None:
    """Which versions learned from a piece of feedback, or which feedback made a version."""
    with open_store(settings_of(context)) as store:
        if id_.startswith("fb-"):
            trace_feedback(store, id_, json)
        else:
            trace_version(store, id_, json)


def trace_feedback(store: Store, feedback_id: str, json: bool) -> None:
    from tutee.data.from_feedback import why_not

    row = store.feedback.get(feedback_id)
    reason = why_not(store, feedback_id)
    learned = store.versions.learned_from(feedback_id)
    frozen = store.snapshots.containing(feedback_id)
    if json:
        snapshots = [{"sha": snapshot.sha, "split": item.split, "kind": item.kind} for snapshot, item in frozen]
        use = {"usable": reason is None, "why_not": reason}
        show_json({"feedback": describe(row) | use, "rows": snapshots, "versions": [v.name for v in learned]})
        return
    out.print(plain(f"{row.id}: {row.kind} {row.payload}"))
    cells = [(snapshot.sha[:16], item.split, item.kind) for snapshot, item in frozen]
    out.print("Usable." if reason is None else f"Not usable: {reason}.")
    show_table("In snapshots", ["snapshot", "split", "as"], cells, "none yet: `tutee improve` takes what is usable")
    versions = [(v.number, v.name, v.state) for v in learned]
    show_table("Versions made with it (held out: measured, not taught)", ["", "name", "state"], versions, "none yet")


def trace_version(store: Store, name: str, json: bool) -> None:
    version = find_version(store, name)
    ids = store.versions.feedback_ids(version.id)
    rows = store.feedback.get_many(ids)
    erased = len(ids) - len(rows)
    if json:
        show_json({"version": version.name, "feedback": [describe(row) for row in rows], "erased": erased})
        return
    people = {actor.id: actor.handle for actor in store.actors.list()}
    cells = [(row.id, when(row.created_at), people[row.actor_id], row.kind, str(row.payload)[:60]) for row in rows]
    show_table(
        f"Feedback that made version {version.number}, {version.name}", ["id", "when", "who", "kind", "what"], cells
    )
    say_erased(erased)


def say_erased(count: int) -> None:
    """What to do about feedback that a version learned from and that is gone."""
    if count:
        out.print(f"Erased since it was made: {count} of its feedback. Improve again to have none of it live.")


def describe(row: Feedback) -> dict[str, Any]:
    fields = ("id", "kind", "actor_id", "message_id", "presentation_id", "payload", "created_at")
    return {field: getattr(row, field) for field in fields}
