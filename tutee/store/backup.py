"""The whole home in one file, and back: database, versions, files, jobs. Base models are left out: they can be pulled.

An archive is complete or absent, and says what must be in it: its last member lists every file with its sha256. The
database is copied before the folders, whose files are there before their rows are, so nothing that a row names is
missed. A restore unpacks and checks everything beside the home's contents and only then swaps; what was there is kept
in `backups/replaced-…`. A restore that is killed in the swap leaves a mark, and the store will not open until it is
redone. The copy of the database that is made before a migration can be restored too: it replaces the database alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tutee.errors import Busy, InvalidInput, TuteeError, Unavailable
from tutee.lock import only_one
from tutee.store import migrate
from tutee.store.database import Database
from tutee.store.store import UNFINISHED_RESTORE, Store

FOLDERS = ("versions", "files", "jobs")
CONTENTS = "contents.json"
COPIES = {"sqlite": b"SQLite format 3\0", "postgresql": b"PGDMP"}
"""How bare copies of a database (`migrate.save_copy`) begin."""
FORMAT = 1


def backup(store: Store, path: Path | None = None) -> Path:
    """Write everything into one archive, while the store may be in use.

    Args:
        path: where to; None means a dated file in the home's `backups`.

    Raises:
        Unavailable: the disk is full, or the database could not be copied; no archive is left behind.
        InvalidInput: `path` exists already.
    """
    path = store.home / "backups" / f"tutee-{_stamp()}.tar" if path is None else Path(path).expanduser().resolve()
    if path.exists():
        raise InvalidInput(f"{path} exists already.", param="path")
    beside = path.with_name(f".{path.name}.part")
    copy = store.home / "backups" / f".{secrets.token_hex(8)}.copy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        migrate.copy_database(store.database, copy)
        with beside.open("xb") as out:
            os.fchmod(out.fileno(), 0o600)  # it holds what people said
            with tarfile.open(fileobj=out, mode="w") as archive:
                _write(archive, store, copy)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    except (OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        raise Unavailable(f"The backup could not be written: {error}.", code="backup_failed") from error
    finally:
        for leftover in (beside, copy):
            with suppress(OSError):
                leftover.unlink()
    return path


def restore(path: Path, home: Path, *, url: str | None = None, force: bool = False) -> None:
    """Bring an archive into a home, or the copy of a database that was made before a migration.

    Args:
        url: the database to restore into; None means SQLite in the home.
        force: replace what the home holds; it is moved to `backups/replaced-…` (Postgres: dumped there).

    Raises:
        InvalidInput: no archive or copy of ours, damaged, made on the other kind of database or by a newer tutee; a
            home that holds something and no `force` (code home_not_empty).
        Unavailable: a server or worker runs on this home, or the disk is full. Nothing was changed.
    """
    home = Path(home).expanduser().resolve()
    database = Database(url or f"sqlite:///{home / 'tutee.db'}")
    (home / "backups").mkdir(parents=True, exist_ok=True)
    staged = home / "backups" / f".restore-{secrets.token_hex(8)}"
    with _alone_in(home):
        _restore(Path(path), home, database, staged, force)


def _restore(path: Path, home: Path, database: Database, staged: Path, force: bool) -> None:
    try:
        kind = _kind_of_copy(path)
        folders = FOLDERS if kind is None else ()
        occupied = _occupied(database, home, folders)
        if occupied and not force:
            raise InvalidInput(
                f"{home} already holds {occupied}. Restore into an empty home, or replace this one with --force; what "
                "it holds is kept in its backups folder.",
                param="force",
                code="home_not_empty",
            )
        contents = _unpack(path, staged) if kind is None else _take_copy(path, kind, staged)
        _check_kind(contents, database)
        _swap(staged, home, database, occupied is not None, folders)
    except (OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        raise Unavailable(f"The backup could not be restored: {error}.", code="restore_failed") from error
    finally:
        database.close()
        shutil.rmtree(staged, ignore_errors=True)


def _write(archive: tarfile.TarFile, store: Store, copy: Path) -> None:
    contents: dict[str, Any] = {
        "format": FORMAT,
        "database": "sqlite" if store.database.is_sqlite else "postgresql",
        "schema": migrate.head(),
        "created_at": time.time(),
        "files": {},
    }
    contents["files"]["database"] = _add(archive, copy, "database")
    for folder in FOLDERS:
        for file in sorted((store.home / folder).rglob("*")):
            if file.is_file() and not file.is_symlink() and not file.name.endswith(".part"):
                name = file.relative_to(store.home).as_posix()
                try:
                    contents["files"][name] = _add(archive, file, name)
                except FileNotFoundError:
                    continue  # deleted or replaced since it was listed
    said = json.dumps(contents).encode()
    info = tarfile.TarInfo(CONTENTS)
    info.size = len(said)
    archive.addfile(info, io.BytesIO(said))


def _add(archive: tarfile.TarFile, file: Path, name: str) -> str:
    """Add one file as it is at this moment; returns its sha256."""
    with file.open("rb") as source:
        info = archive.gettarinfo(arcname=name, fileobj=source)
        reader = _Digesting(source)
        archive.addfile(info, reader)  # type: ignore[arg-type]
    return reader.digest.hexdigest()


class _Digesting:
    """A reader that hashes what passes, padding a file that shrank so that the archive stays readable."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        piece = self._source.read(size).ljust(size, b"\0")
        self.digest.update(piece)
        return piece


def _unpack(path: Path, staged: Path) -> dict[str, Any]:
    """Extract into `staged` and check every byte; returns the list of contents."""
    try:
        with tarfile.open(path, mode="r:") as archive:
            archive.extractall(staged, filter="data")
        contents: dict[str, Any] = json.loads((staged / CONTENTS).read_text(encoding="utf-8"))
        written, expected, *_ = (contents[key] for key in ("format", "files", "database", "schema"))
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError, FileNotFoundError) as error:
        raise InvalidInput(f"{path} is no complete backup of tutee: {error}.", param="path") from error
    if written != FORMAT:
        raise InvalidInput(f"{path} was written by a newer tutee.", param="path")
    (staged / CONTENTS).unlink()
    found = {file.relative_to(staged).as_posix(): file for file in staged.rglob("*") if file.is_file()}
    if set(found) != set(expected) or any(name.split("/")[0] not in (*FOLDERS, "database") for name in found):
        raise InvalidInput(f"{path} is damaged: its files are not those that it lists.", param="path")
    for name, file in found.items():
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != expected[name]:
                raise InvalidInput(f"{path} is damaged: {name} is not what was saved.", param="path")
    return contents


def _kind_of_copy(path: Path) -> str | None:
    """Which database `path` is a bare copy of; None for what should be an archive."""
    try:
        with path.open("rb") as file:
            begins = file.read(16)
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} is not there.", param="path") from error
    return next((kind for kind, magic in COPIES.items() if begins.startswith(magic)), None)


def _take_copy(path: Path, kind: str, staged: Path) -> dict[str, Any]:
    """Bring the copy of a database into `staged`; says what `_unpack` says of an archive's."""
    staged.mkdir(parents=True)
    shutil.copyfile(path, staged / "database")
    schema = ""  # of a dump: only Postgres can tell, when it is there
    if kind == "sqlite":
        try:
            with closing(sqlite3.connect(staged / "database")) as copy:
                [(said,)] = copy.execute("PRAGMA integrity_check(1)").fetchall()
                [(schema,)] = copy.execute(f"SELECT version_num FROM {migrate.VERSION_TABLE}").fetchall()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise InvalidInput(f"{path} is no complete copy of a database of tutee: {error}.", param="path") from error
        if said != "ok":
            raise InvalidInput(f"{path} is damaged: {said}.", param="path")
    return {"database": kind, "schema": schema}


def _check_kind(contents: dict[str, Any], database: Database) -> None:
    kind = "sqlite" if database.is_sqlite else "postgresql"
    if contents["database"] != kind:
        raise InvalidInput(f"The backup is of {contents['database']}, but this home uses {kind}.", param="url")
    if contents["schema"] > migrate.head():
        raise InvalidInput(
            f"The backup has schema {contents['schema']}, newer than this tutee knows ({migrate.head()}).", param="path"
        )


def _swap(staged: Path, home: Path, database: Database, occupied: bool, folders: Sequence[str]) -> None:
    mark = home / UNFINISHED_RESTORE
    mark.write_text("A restore was interrupted here: run `tutee restore --force` again.\n", encoding="utf-8")
    aside = home / "backups" / f"replaced-{_stamp()}"
    if occupied:
        aside.mkdir()
    if database.path is None:
        _swap_postgres(staged / "database", home, database, occupied)
    else:
        database.close()
        for suffix in ("", "-wal", "-shm", "-journal"):
            old = database.path.with_name(database.path.name + suffix)
            if old.exists():
                shutil.move(old, aside / old.name)
        shutil.move(staged / "database", database.path)
    for folder in folders:
        if occupied and (home / folder).exists():
            os.replace(home / folder, aside / folder)
        elif (home / folder).exists():
            (home / folder).rmdir()
        (staged / folder).mkdir(exist_ok=True)
        os.replace(staged / folder, home / folder)
    mark.unlink()


def _swap_postgres(dump: Path, home: Path, database: Database, occupied: bool) -> None:
    program = shutil.which("pg_restore")
    if program is None:
        raise Unavailable("pg_restore is not installed. Install the PostgreSQL client programs.", code="restore_failed")
    if occupied:
        migrate.save_copy(database, home, "replaced")
    migrate.postgres_tool(
        database, [program, "--clean", "--if-exists", "--no-owner", "--single-transaction", str(dump)]
    )


def _occupied(database: Database, home: Path, folders: Sequence[str]) -> str | None:
    """What would be replaced, in words; None when nothing would."""
    if database.path is not None and database.path.exists():
        return "a database"
    if database.path is None:
        try:
            with database.read() as session:
                if migrate.schema_version(session.connection()) is not None:
                    return "a database"
        except TuteeError:
            return "a damaged database"
    full = [folder for folder in folders if (home / folder).is_dir() and any((home / folder).iterdir())]
    return full[0] if full else None


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Hold the locks of server and worker, so that neither runs nor starts meanwhile."""
    try:
        with only_one(home / "server.lock", "a restore"), only_one(home / "worker.lock", "a restore"):
            yield
    except Busy as error:
        raise Unavailable(error.message, code="home_in_use") from None


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{secrets.token_hex(2)}"
