"""`examine`: look at a home and its database without changing either, and say what is wrong and what to do.

Hashes every stored text, weight and file, so it may take a while. Works on homes that would not open.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import exists, select, text
from sqlalchemy.orm import Session

from tutee.errors import TuteeError
from tutee.store import migrate
from tutee.store.audit import AuditLog
from tutee.store.database import Database
from tutee.store.schema import Alias, Blob, Conversation, File, Generation, Job, Message, ModelVersion
from tutee.store.store import UNFINISHED_RESTORE

LOW_DISK = 2 * 1024**3
"""Bytes; a version, its job and a backup fit into it."""
STALE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok` needs nothing, `warn` can wait, `error` means damage."""

    check: str
    level: Literal["ok", "warn", "error"]
    message: str


def examine(url: str, home: Path) -> list[Finding]:
    """All findings, a line for each check; several where a check found several things."""
    home = Path(home).expanduser().resolve()
    if not home.is_dir():
        return [Finding("home", "error", f"{home} is not there. Start tutee once, or restore a backup into it.")]
    findings = [_disk(home), *_restore(home)]
    database = Database(url)
    try:
        findings += _database(database, home)
    except TuteeError as error:
        findings.append(Finding("database", "error", error.message))
    finally:
        database.close()
    return findings


def _disk(home: Path) -> Finding:
    free = shutil.disk_usage(home).free
    level: Literal["ok", "error"] = "ok" if free >= LOW_DISK else "error"
    advice = "" if level == "ok" else f" Free some: a version, its job and a backup take {LOW_DISK / 1024**3:.0f} GiB."
    return Finding("disk", level, f"{free / 1024**3:.1f} GiB free.{advice}")


def _restore(home: Path) -> Iterator[Finding]:
    if (home / UNFINISHED_RESTORE).exists():
        yield Finding("restore", "error", "A restore was interrupted: run `tutee restore --force` again.")


def _database(database: Database, home: Path) -> Iterator[Finding]:
    if database.path is not None and not database.path.is_file():
        yield Finding("database", "error", f"{database.path} is not there. Start tutee once, or restore a backup.")
        return
    with database.read() as session:
        yield from _integrity(session, database.is_sqlite)
        version = migrate.schema_version(session.connection())
        if version != migrate.head():
            said = "empty" if version is None else f"at schema {version}"
            yield Finding("schema", "warn", f"The database is {said}; the next start migrates it to {migrate.head()}.")
            return
        yield Finding("schema", "ok", f"Schema {version}.")
        for check in (_blobs, _references):
            yield from check(session)
        for look in (_versions, _files):
            yield from look(session, home)
        yield from _jobs(session)
        yield from _streams(session)
    bad = AuditLog(database).verify()
    if bad is None:
        yield Finding("audit", "ok", "The audit chain holds.")
    else:
        yield Finding("audit", "error", f"The audit chain breaks at entry {bad}: somebody changed or removed an entry.")


def _integrity(session: Session, is_sqlite: bool) -> Iterator[Finding]:
    if not is_sqlite:
        session.execute(text("SELECT 1"))
        yield Finding("database", "ok", "PostgreSQL answers; it checks its pages and references itself.")
        return
    said = [row[0] for row in session.execute(text("PRAGMA integrity_check(10)"))]
    if said == ["ok"]:
        yield Finding("database", "ok", "SQLite's integrity check passed.")
    else:
        yield Finding("database", "error", f"The file is damaged: {said[0]}. Restore the newest backup.")
    for table, rowid, parent, _ in session.execute(text("PRAGMA foreign_key_check")).fetchmany(10):
        yield Finding("references", "error", f"Row {rowid} of {table} refers to a {parent} that is not there.")


def _blobs(session: Session) -> Iterator[Finding]:
    count = bad = 0
    for blob in session.scalars(select(Blob).execution_options(yield_per=1000)):
        count += 1
        bad += not isinstance(blob.data, bytes) or hashlib.sha256(blob.data).hexdigest() != blob.sha256
    if bad:
        yield Finding("content", "error", f"{bad} of {count} stored texts are not what was stored. Restore a backup.")
    else:
        yield Finding("content", "ok", f"{count} stored texts are what was stored.")


def _references(session: Session) -> Iterator[Finding]:
    """Links that no foreign key guards, because they go both ways."""
    lost = session.scalars(
        select(Message.id).where(
            Message.generation_id.is_not(None), ~exists().where(Generation.id == Message.generation_id)
        )
    ).all()
    headless = session.scalars(
        select(Conversation.id).where(
            Conversation.head_message_id.is_not(None), ~exists().where(Message.id == Conversation.head_message_id)
        )
    ).all()
    for id in (*lost[:5], *headless[:5]):
        yield Finding("references", "error", f"{id} points at something that is not there.")


def _versions(session: Session, home: Path) -> Iterator[Finding]:
    live = set(session.scalars(select(Alias.version_id)))
    versions = session.scalars(select(ModelVersion).order_by(ModelVersion.number)).all()
    for version in versions:
        yield _version(version, home / version.folder, version.id in live)
    known = {(home / version.folder).resolve() for version in versions}
    for folder in sorted((home / "versions").glob("*")):
        if folder.resolve() not in known:
            yield Finding("versions", "warn", f"{folder} belongs to no version; it can be deleted.")


def _version(version: ModelVersion, folder: Path, live: bool) -> Finding:
    from tutee.model.weights import REMEMBERED, weights_sha256  # late: it loads torch

    if version.kind == "upstream":
        return Finding("versions", "ok", f"{version.name}: another server's; its weights cannot be checked.")
    if not version.folder:
        return Finding("versions", "ok", f"{version.name}: came with somebody's archive, without its weights.")
    if not folder.is_dir():
        if version.kind == "base":
            return Finding(
                "versions", "warn", f"{version.name}: {folder} is not there; `tutee models pull` fetches it."
            )
        needed = live or version.state in ("candidate", "archived")
        return Finding("versions", "error" if needed else "ok", f"{version.name}: {folder} is not there.")
    (folder / REMEMBERED).unlink(missing_ok=True)  # a remembered hash would hide damage
    try:
        sha = weights_sha256(folder)
    except (TuteeError, OSError) as error:
        return Finding("versions", "error", f"{version.name}: {error}")
    if sha != version.weights_sha256:
        return Finding("versions", "error", f"{version.name}: the weights in {folder} are not those it was made with.")
    return Finding("versions", "ok", f"{version.name}: the weights are those it was made with.")


def _files(session: Session, home: Path) -> Iterator[Finding]:
    rows = {row.sha256: row for row in session.scalars(select(File))}
    found = {path.name: path for path in (home / "files").glob("*") if path.is_file()}
    for sha, row in rows.items():
        if sha not in found:
            yield Finding("files", "error", f"The content of {row.id} ({row.filename}) is gone; upload it again.")
            continue
        with found[sha].open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha:
                yield Finding(
                    "files", "error", f"The content of {row.id} ({row.filename}) is damaged; upload it again."
                )
    for name in sorted(set(found) - set(rows)):
        yield Finding("files", "warn", f"{found[name]} belongs to no file; it can be deleted.")
    if not rows or set(rows) <= set(found):
        yield Finding("files", "ok", f"{len(rows)} files.")


def _jobs(session: Session) -> Iterator[Finding]:
    late = time.time() - STALE_SECONDS
    for job in session.scalars(select(Job).where(Job.status == "running", Job.lease_expires < late)):
        yield Finding("jobs", "warn", f"{job.id} runs, but its worker is silent since an hour; start a worker.")
    waiting = Job.status.in_(("queued", "validating_files"))
    for job in session.scalars(select(Job).where(waiting, Job.created_at < late)):
        yield Finding("jobs", "warn", f"{job.id} waits since an hour; start a worker, or cancel it.")


def _streams(session: Session) -> Iterator[Finding]:
    late = time.time() - STALE_SECONDS
    stuck = session.scalars(select(Message.id).where(Message.state == "streaming", Message.created_at < late)).all()
    if stuck:
        yield Finding("messages", "warn", f"{len(stuck)} answers never ended; the next server start marks them.")
