"""`tutee backup`, `restore`, `upgrade` and `doctor`: keeping a home healthy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutee.cli.output import out, show_json, show_table
from tutee.cli.place import open_store, settings_of


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
    archive: Annotated[
        Path,
        typer.Argument(help="What `backup` wrote, or a copy that an upgrade made first.", exists=True, dir_okay=False),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace what the home holds now (it is kept in its backups folder).")
    ] = False,
) -> None:
    """Bring a backup into this home. What was erased in this home since the backup was made is erased again."""
    from tutee.data.erased_again import erase_again, known_in
    from tutee.store.backup import restore as read_backup

    settings = settings_of(context)
    erased = known_in(settings.url)
    read_backup(archive, settings.home, url=settings.url, force=force)
    out.print(f"{archive} → {settings.home}")
    if erased.tombstones:
        with open_store(settings) as store:
            count = erase_again(store, erased)
        out.print(f"Erasures since this backup, done again: {count}.")


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
