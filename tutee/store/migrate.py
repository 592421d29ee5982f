"""From any older schema to this code's, or a refusal that says what to do.

Before an older database is changed it is copied to `home/backups`. A migration is one transaction on both databases,
so a killed process leaves the schema before or after, never between; what is found between is refused, not guessed at.
Postgres is copied with `pg_dump`; where that is missing the migration is refused unless the caller insists.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from tutee.errors import Unavailable
from tutee.lock import in_turn
from tutee.store.database import Database, take_lock
from tutee.store.schema import Base

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "alembic_version"


def bring_up(database: Database, home: Path, *, unsaved: bool = False, scripts: Path = MIGRATIONS) -> None:
    """Make the schema of `database` the newest one in `scripts`.

    Raises:
        Unavailable: see `Store.open`.
    """
    with in_turn(home / "migrate.lock"):  # server and worker start together: the second finds it done
        with database.read() as session:
            current = schema_version(session.connection(), scripts)
        newest = head(scripts)
        if current == newest:
            return
        if current is not None:
            save_copy(database, home, f"schema-{current}", unsaved=unsaved)
        with database.write() as session:
            take_lock(session, "schema")
            _upgrade(session, scripts)
            schema_version(session.connection(), scripts)


def head(scripts: Path = MIGRATIONS) -> str:
    """The newest schema that this code knows."""
    newest = ScriptDirectory(str(scripts)).get_current_head()
    assert newest is not None, f"no migrations in {scripts}"
    return newest


def schema_version(connection: Connection, scripts: Path = MIGRATIONS) -> str | None:
    """The schema that the database has, None for an empty one.

    Raises:
        Unavailable: newer than this code (schema_newer), half made (schema_broken), or not ours (schema_foreign).
    """
    tables = set(inspect(connection).get_table_names())
    heads = MigrationContext.configure(connection).get_current_heads() if VERSION_TABLE in tables else ()
    left = sorted(tables - {VERSION_TABLE})
    if not heads and not left:
        return None
    if not heads and not tables & set(Base.metadata.tables):
        raise Unavailable(
            f"The database already holds tables that are not tutee's ({', '.join(left[:3])}). Name an empty one.",
            code="schema_foreign",
        )
    unfinished = [table for table in left if table.startswith("_alembic_tmp_")]
    if len(heads) != 1 or unfinished:
        raise _broken("no single schema version" if len(heads) != 1 else f"{unfinished[0]} left over")
    known = {revision.revision for revision in ScriptDirectory(str(scripts)).walk_revisions()}
    if heads[0] not in known:
        raise Unavailable(
            f"The database has schema {heads[0]}, which is newer than this tutee knows ({head(scripts)}). Install the "
            "newer tutee again, or restore the backup that it made before it migrated (`tutee restore --force FILE`).",
            code="schema_newer",
        )
    if scripts == MIGRATIONS and heads[0] == head(scripts):
        missing = _missing(connection)
        if missing:
            raise _broken(f"{', '.join(missing[:3])} missing")
    return str(heads[0])


def save_copy(database: Database, home: Path, label: str, *, unsaved: bool = False) -> Path | None:
    """Copy the whole database into `home/backups`, complete or not at all.

    Args:
        unsaved: return None instead of raising when the copy cannot be made.

    Raises:
        Unavailable: the copy could not be made (code backup_failed).
    """
    suffix = "db" if database.is_sqlite else "dump"
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = home / "backups" / f"tutee-{stamp}-{label}.{suffix}"
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        copy_database(database, beside)
        os.replace(beside, path)
    except (OSError, sqlite3.Error, subprocess.SubprocessError, Unavailable) as error:
        if unsaved:
            return None
        raise Unavailable(
            f"No backup could be made before the migration, so nothing was changed: {error}. To go on without one: "
            "`tutee upgrade --unsaved`.",
            code="backup_failed",
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def copy_database(database: Database, path: Path) -> None:
    """One consistent copy of a database that may be in use: an SQLite file, or a `pg_dump` archive.

    Raises:
        Unavailable: `pg_dump` is not installed.
        OSError, sqlite3.Error, subprocess.SubprocessError: it failed.
    """
    if database.path is not None:
        with closing(sqlite3.connect(database.path)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, no log beside it
    else:
        program = shutil.which("pg_dump")
        if program is None:
            raise Unavailable("pg_dump is not installed; install the PostgreSQL client programs", code="backup_failed")
        postgres_tool(database, [program, "--format=custom", f"--file={path}"])
    with path.open("rb") as file:
        os.fsync(file.fileno())


def postgres_tool(database: Database, arguments: list[str]) -> None:
    """Run a PostgreSQL client program on this database; the password goes by the environment, not the command line.

    Raises:
        subprocess.SubprocessError: it failed; its last words are in the message.
    """
    url = make_url(database.url).set(drivername="postgresql")
    environment = {**os.environ, "PGPASSWORD": str(url.password)} if url.password else dict(os.environ)
    where = url.set(password=None).render_as_string(hide_password=False)
    done = subprocess.run(
        [*arguments, f"--dbname={where}"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise subprocess.SubprocessError(f"{Path(arguments[0]).name}: {done.stderr.strip()[-500:]}")


def _upgrade(session: Session, scripts: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = session.connection()
    command.upgrade(config, "head")


def _missing(connection: Connection) -> list[str]:
    found = inspect(connection).get_multi_columns()
    columns = {table: {column["name"] for column in rows} for (_, table), rows in found.items()}
    missing = []
    for name, table in Base.metadata.tables.items():
        if name not in columns:
            missing.append(f"table {name}")
        else:
            missing += [f"column {name}.{column.name}" for column in table.columns if column.name not in columns[name]]
    return missing


def _broken(what: str) -> Unavailable:
    return Unavailable(
        f"The database is half migrated ({what}). Restore the newest backup in the home's backups folder with "
        "`tutee restore --force FILE`, then start again.",
        code="schema_broken",
    )
