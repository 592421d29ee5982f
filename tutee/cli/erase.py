"""`tutee erase`: a person goes, with everything that they said; what learned from it is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tutee.cli.output import out, plain, show_json, show_table
from tutee.cli.place import open_store, settings_of
from tutee.data.taken_back import erase_person
from tutee.errors import NotFound
from tutee.store import Store
from tutee.store.schema import Actor, ModelVersion


def erase(
    context: typer.Context,
    person: Annotated[str, typer.Argument(help="Handle or id; `tutee feedback list` and `tutee keys list` show them.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; needs --yes.")] = False,
) -> None:
    """Erase a person: conversations, feedback, files, batches, evals, stored answers, their name and the use of their
    keys. Their jobs on files are cancelled, and jobs that learned from them lose their files. Versions stay, and those
    that learned from the person are named: improve again, then nothing of it is left in what is live. Backups that
    were made before still hold everything."""
    with open_store(settings_of(context)) as store:
        actor = find_person(store, person)
        if json and not yes:
            raise typer.BadParameter("--json needs --yes: it asks nothing.", param_hint="--json")
        if not yes:
            typer.confirm(f"Erase everything of {plain(actor.handle)}? It cannot be taken back", abort=True)
        erased, jobs = erase_person(store, actor.id)
        tainted = [store.versions.get(id) for id in erased.tombstone.tainted_versions]
        copies = backups_in(store.home)
    if json:
        fields = ("id", "number", "name", "state")
        learned = [{field: getattr(version, field) for field in fields} for version in tainted]
        found = {"erasure": erased.tombstone.id, "actor_id": actor.id, "removed": dict(erased.removed)}
        show_json(
            found | {"emptied_jobs": jobs, "tainted_versions": learned, "backups": [str(path) for path in copies]}
        )
        return
    show_table("Erased", ["what", "rows"], sorted(erased.removed.items()), "there was nothing")
    show_table("Jobs whose files were deleted", ["id"], [(id,) for id in jobs], "none")
    say_tainted(tainted)
    if copies:
        out.print("\nThese copies may still hold it; delete them, or erase again after a restore into another home:")
        for path in copies:
            out.print(f"  {path}")


def say_tainted(tainted: Sequence[ModelVersion]) -> None:
    cells = [(version.number, version.name, version.state) for version in tainted]
    show_table("Versions that learned from it", ["", "name", "state"], cells, "none")
    if tainted:
        out.print("Train again (`tutee improve`, then `tutee promote`), so that nothing of it is left in what is live.")


def find_person(store: Store, name: str) -> Actor:
    """The actor of this handle or id. Raises NotFound."""
    found = store.actors.by_handle(name) or next((actor for actor in store.actors.list() if actor.id == name), None)
    if found is None:
        raise NotFound(f"There is no person {name!r}.", param="person", code="person_not_found")
    return found


def backups_in(home: Path) -> list[Path]:
    """What backups, upgrades and restores left in the home."""
    return sorted(path for path in (home / "backups").glob("*") if not path.name.startswith("."))
