"""`tutee backup`, `restore`, `upgrade`, `doctor` and `keys`: keeping a home healthy and its door shut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutee.cli.output import out, show_json, show_table, when
from tutee.cli.place import open_store, settings_of

keys = typer.Typer(help="API keys, for servers that others can reach.", no_args_is_help=True)


def backup(
    context: typer.Context,
    to: Annotated[
        Path | None, typer.Option(help="File to write; by default a dated one in TUTEE_HOME/backups.")
    ] = None,
) -> None:
    """Write database, versions and files into one archive; works while the server runs."""
    from tutee.store.backup import backup as write_backup

    settings = settings_of(context)
    with open_store(settings) as store:
        out.print(str(write_backup(store, to)))


def restore(
    context: typer.Context,
    archive: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Replace what the home holds now (it is backed up first).")
    ] = False,
) -> None:
    """Bring a backup into this home."""
    from tutee.store.backup import restore as read_backup

    settings = settings_of(context)
    read_backup(archive, settings.home, url=settings.url, force=force)
    out.print(f"{archive} → {settings.home}")


def upgrade(
    context: typer.Context,
    unsaved: Annotated[
        bool, typer.Option("--unsaved", help="Go on when no copy can be made first (Postgres without pg_dump).")
    ] = False,
) -> None:
    """Bring the database to what this tutee needs, after copying it; any other command does so too."""
    from tutee.store import Store, migrate

    settings = settings_of(context)
    Store.open(settings.url, settings.home, unsaved=unsaved).close()
    out.print(f"The database has schema {migrate.head()}.")


def doctor(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look for damage: database, audit chain, weights, files, stuck jobs, disk. Status 1 when something is wrong."""
    from tutee.store.doctor import examine

    settings = settings_of(context)
    findings = examine(settings.url, settings.home)
    if json:
        show_json([{"check": f.check, "level": f.level, "message": f.message} for f in findings])
    else:
        show_table("Findings", ["level", "check", "message"], [(f.level, f.check, f.message) for f in findings])
    if any(f.level == "error" for f in findings):
        raise typer.Exit(1)


@keys.command("add")
def add_key(
    context: typer.Context, person: Annotated[str, typer.Argument(help="Whose key it is.")], name: str = "key"
) -> None:
    """Make a key for a person; it is shown once and stored as a hash."""
    with open_store(settings_of(context)) as store:
        text, row = store.keys.add(store.actors.get_or_create(person).id, name)
    out.print(f"{row.id}\n[bold]{text}[/]")


@keys.command("list")
def list_keys(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """All keys, without their secrets."""
    with open_store(settings_of(context)) as store:
        people = {actor.id: actor.handle for actor in store.actors.list()}
        rows = [key for actor in people for key in store.keys.list(actor)]
    if json:
        fields = ("id", "actor_id", "name", "prefix", "created_at", "revoked_at")
        show_json([{field: getattr(row, field) for field in fields} for row in rows])
        return
    cells = [(r.id, people[r.actor_id], r.name, r.prefix, when(r.created_at), when(r.revoked_at)) for r in rows]
    show_table("Keys", ["id", "person", "name", "begins", "made", "revoked"], cells)


@keys.command("revoke")
def revoke_key(context: typer.Context, key_id: str) -> None:
    """Make a key useless at once."""
    with open_store(settings_of(context)) as store:
        store.keys.revoke(key_id)
    out.print(f"{key_id} is revoked")
