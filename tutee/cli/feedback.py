"""`tutee feedback`: what people said, taken in and given out as OpenAI's fine-tuning files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tutee.cli.output import out, show_json, show_table, when
from tutee.cli.place import open_store, settings_of
from tutee.errors import InvalidInput

feedback = typer.Typer(help="What people said: list, import, export.", no_args_is_help=True)


@feedback.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="thumb, compare, edit, demo or flag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The newest pieces of feedback."""
    with open_store(settings_of(context)) as store:
        rows = store.feedback.list(kind=kind, limit=limit).data
        people = {actor.id: actor.handle for actor in store.actors.list()}
    if json:
        fields = (
            "id",
            "kind",
            "message_id",
            "presentation_id",
            "payload",
            "reasons",
            "comment",
            "created_at",
            "supersedes",
        )
        show_json([{"actor": people[row.actor_id]} | {f: getattr(row, f) for f in fields} for row in rows])
        return
    cells = [(r.id, when(r.created_at), people[r.actor_id], r.kind, str(r.payload)[:60], r.comment or "") for r in rows]
    show_table("Feedback", ["id", "when", "who", "kind", "what", "comment"], cells)


@feedback.command("export")
def export(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    method: Annotated[Literal["supervised", "dpo"], typer.Option(help="Demonstrations, or preference pairs.")] = "dpo",
) -> None:
    """Write the usable feedback as one of OpenAI's fine-tuning files, scrubbed of personal data."""
    from tutee.data.from_feedback import collect
    from tutee.data.openai_format import write
    from tutee.data.snapshot import scrubbed

    if path.exists():
        raise InvalidInput(f"{path} is there already; name another file.", param="path")
    beside = path.with_name(f".{path.name}.part")
    try:
        with open_store(settings_of(context)) as store, beside.open("wb") as stream:
            count = write(scrubbed(collect(store).rows), stream, method)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    out.print(f"{count} examples → {path}")


@feedback.command("import")
def import_(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="An archive that the page's export made (zip).", exists=True, dir_okay=False)
    ],
    person: Annotated[str, typer.Option(help="Whose it becomes here.")] = "owner",
) -> None:
    """Read one person's archive (conversations and feedback) into this home."""
    from tutee.data.archive import import_archive

    with open_store(settings_of(context)) as store, path.open("rb") as stream:
        counts = import_archive(store, stream, store.actors.get_or_create(person).id)
    out.print(", ".join(f"{count} {name}" for name, count in counts.items()))
