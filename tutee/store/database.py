"""Connections and transactions, the same for SQLite and Postgres. Knows no table.

Reading is a deferred transaction: one consistent snapshot that blocks nobody. Writing on SQLite is BEGIN IMMEDIATE, so
a writer waits at its first statement instead of failing at its last; inside one process writers also queue on a lock,
because SQLite's own waiting is unfair under many threads. On Postgres `write(lock=...)` takes an advisory lock for the
read-then-write steps that SQLite gets for free.

Durability: with the write-ahead log a killed process (kill -9) loses nothing that was committed, whatever `synchronous`
says, because the pages are the operating system's by then. Only a power cut asks for an fsync: it is paid for what
people said and did, and not (`durable=False`) for what can be made again (answer chunks, leases, job metrics). The next
durable commit syncs those too.
"""

from __future__ import annotations

import json
import math
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, CursorResult, Engine, UpdateBase, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, Unavailable

BUSY_TIMEOUT_MS = 20_000


class Database:
    """An engine and its two ways in: `read()` and `write()`, each one transaction in one session."""

    def __init__(self, url: str) -> None:
        """Open lazily; nothing is read until the first transaction.

        Raises:
            InvalidInput: the URL is neither SQLite on a file nor Postgres.
        """
        self.url = normalise(url)
        self.is_sqlite = self.url.startswith("sqlite")
        self.engine = _sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url)
        self._writer = self.engine.execution_options(tutee_write="durable")
        self._lazy_writer = self.engine.execution_options(tutee_write="lazy")
        self._queue = threading.Lock()
        self._writing = threading.local()

    @property
    def path(self) -> Path | None:
        """The file of an SQLite database, None on Postgres."""
        return Path(make_url(self.url).database or "") if self.is_sqlite else None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only transaction.

        Raises:
            Unavailable: the database cannot be reached or read.
        """
        with _translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write(self, lock: str | None = None, durable: bool = True) -> Iterator[Session]:
        """A writing transaction: all of it happens, or nothing.

        Args:
            lock: name of what is read before it is written; writers with the same name take turns.
            durable: whether the commit waits for the disk (see the module).

        Raises:
            Unavailable: the disk is full, or the database is locked or cannot be reached; nothing was written.
        """
        if getattr(self._writing, "on", False):
            raise RuntimeError("write() inside write() on one thread would wait for itself")
        engine = self._writer if durable else self._lazy_writer
        self._writing.on = True
        try:
            with _translated(), self._turn(), Session(engine, expire_on_commit=False) as session, session.begin():
                if not self.is_sqlite:
                    if not durable:
                        session.execute(text("SET LOCAL synchronous_commit = off"))
                    if lock is not None:
                        take_lock(session, lock)
                yield session
        finally:
            self._writing.on = False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._queue.acquire(timeout=2 * BUSY_TIMEOUT_MS / 1000):
            raise Unavailable("The database is busy: other writers held it too long. Try again.", code="database_busy")
        try:
            yield
        finally:
            self._queue.release()

    def close(self) -> None:
        """Give all connections back. SQLite folds its write-ahead log into the file with the last one."""
        self.engine.dispose()


def take_lock(session: Session, name: str) -> None:
    """Hold the lock `name` until the transaction ends. On SQLite every writer already holds the only lock there is."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(name.encode())})


def affected(session: Session, statement: UpdateBase) -> int:
    """Run an UPDATE or DELETE and return how many rows it touched."""
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def normalise(url: str) -> str:
    """The URL with the driver we use: `postgres://…` and `postgresql://…` mean psycopg 3.

    Raises:
        InvalidInput: another database, or SQLite without a file.
    """
    url = re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql+psycopg://", url)
    if url.startswith("postgresql+psycopg://"):
        return url
    if url.startswith("sqlite:///") and url not in ("sqlite:///", "sqlite:///:memory:"):
        return url
    raise InvalidInput(
        "The database URL must be sqlite:///path/to/file.db or postgresql://user@host/name.", param="TUTEE_DATABASE_URL"
    )


def to_json(value: Any) -> str:
    """JSON text for a column; numbers that JSON cannot say (NaN, infinities) become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _postgres_engine(url: str) -> Engine:
    return create_engine(
        url,
        json_serializer=to_json,
        pool_size=8,
        max_overflow=32,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10},
    )


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        json_serializer=to_json,
        pool_size=8,
        max_overflow=56,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        # turning the log on needs a moment alone with the file; a database that has it already does not
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA secure_delete = FAST")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get("tutee_write")
        if mode is None:
            connection.exec_driver_sql("BEGIN")
            return
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if mode == 'durable' else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the driver's operational errors into sentences."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("Too many database requests at once. Try again in a moment.", code="database_busy") from error
    except OperationalError as error:
        raise _explain(error) from error
    except DBAPIError as error:
        if error.connection_invalidated or "malformed" in str(error.orig) or "not a database" in str(error.orig):
            raise _explain(error) from error
        raise


def _explain(error: DBAPIError) -> Unavailable:
    said = str(error.orig)
    if "disk is full" in said or "No space left" in said or "could not extend file" in said:
        return Unavailable("The disk is full: nothing was written. Free some space and try again.", code="disk_full")
    if "disk I/O error" in said:
        return Unavailable(
            "The disk refuses to be read or written: it is full, or failing. Free some space, then run `tutee doctor`.",
            code="disk_error",
        )
    if "database is locked" in said or "database table is locked" in said:
        return Unavailable("The database is busy: another process held it too long. Try again.", code="database_busy")
    if "readonly database" in said or "read-only" in said:
        return Unavailable("The database cannot be written to: check the permissions.", code="database_read_only")
    if "malformed" in said or "not a database" in said:
        return Unavailable(
            "The database file is damaged: run `tutee doctor`, then restore the newest backup with "
            "`tutee restore --force FILE`.",
            code="database_damaged",
        )
    return Unavailable(f"The database cannot serve this now: {said}", code="database_unavailable")
