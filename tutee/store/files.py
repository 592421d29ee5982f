"""Uploaded and produced files: bytes in `home/files/<sha256>`, names and owners in the database.

A file is written beside its place and synced, then renamed in the transaction that adds its row; it is forgotten first
and unlinked afterwards. So a row without bytes cannot be, and bytes without a row (a crash in between) are harmless and
found by the doctor. Equal contents share one place. A file whose time is over is gone at that moment; its bytes go when
somebody sweeps.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import delete, exists, or_, select

from tutee.errors import InvalidInput, NotFound, TooLarge, Unavailable
from tutee.ids import new_id
from tutee.store.database import Database, affected
from tutee.store.jobs import ENDED
from tutee.store.paging import Order, paginate
from tutee.store.records import Page
from tutee.store.schema import Batch, File, Job, now

PIECE = 1024 * 1024
MOST_LISTED = 10_000
BATCH_ENDED = ("completed", "failed", "expired", "cancelled")


class Files:
    """Files by id."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database = database
        self._folder = home / "files"

    def add(
        self,
        content: bytes | BinaryIO,
        filename: str,
        purpose: str,
        actor_id: str | None,
        max_bytes: int | None = None,
        *,
        id: str | None = None,
        lifetime: int | None = None,
    ) -> File:
        """Keep a file.

        Args:
            content: the bytes, or a stream of them that is read piece by piece.
            filename: as its owner calls it; never used as a path.
            max_bytes: the most that is taken.
            id: an id that was promised before; when there is a file of that id already, that one stays.
            lifetime: seconds until it is gone; None keeps it.

        Raises:
            TooLarge: more than `max_bytes`.
            InvalidInput: an empty name or purpose.
            Unavailable: the disk is full; nothing is kept.
        """
        if not filename or not purpose:
            raise InvalidInput("A file needs a name and a purpose.", param="filename" if not filename else "purpose")
        stream = io.BytesIO(content) if isinstance(content, bytes) else content
        beside = self._folder / f".{secrets.token_hex(8)}.part"
        try:
            sha, size = write_stream(stream, beside, max_bytes)
            moment = now()
            with self._database.write(lock=f"file:{sha}") as session:
                if id is not None and (known := session.get(File, id)) is not None:
                    return known
                row = File(
                    id=id or new_id("file"),
                    actor_id=actor_id,
                    sha256=sha,
                    bytes=size,
                    filename=filename,
                    purpose=purpose,
                    created_at=moment,
                    expires_at=None if lifetime is None else moment + lifetime,
                )
                session.add(row)
                session.flush()
                beside.replace(self._folder / sha)
                return row
        except OSError as error:
            raise Unavailable(f"The file could not be kept: {error.strerror}.", code="disk_full") from error
        finally:
            beside.unlink(missing_ok=True)

    def get(self, id: str, actor_id: str | None = None) -> File:
        """The file's row.

        Raises:
            NotFound: no such file, or somebody else's (code file_not_found).
        """
        with self._database.read() as session:
            row = session.get(File, id)
        expired = row is not None and row.expires_at is not None and row.expires_at < now()
        if row is None or expired or actor_id not in (None, row.actor_id):
            raise _unknown(id)
        return row

    def find(self, id: str) -> File | None:
        """The file's row, whoever owns it, or None."""
        with self._database.read() as session:
            return session.get(File, id)

    def path(self, id: str, actor_id: str | None = None) -> Path:
        """Where the bytes lie. Same errors as `open`."""
        path = self._folder / self.get(id, actor_id).sha256
        if not path.is_file():
            raise NotFound(
                f"The content of file {id!r} is gone; upload it again.", param="file_id", code="file_not_found"
            )
        return path

    def open(self, id: str, actor_id: str | None = None) -> BinaryIO:
        """The bytes, for reading.

        Raises:
            NotFound: no such file, somebody else's, or its bytes are gone from the disk.
        """
        return self.path(id, actor_id).open("rb")

    def delete(self, id: str, actor_id: str | None = None) -> None:
        """Forget the file, and its bytes when no other file has the same.

        Raises:
            NotFound: no such file, or somebody else's, or somebody deleted it at the same moment.
        """
        if not self._forget(self.get(id, actor_id)):
            raise _unknown(id)

    def in_use(self, id: str) -> bool:
        """Whether a job or a batch that has not ended needs the file."""
        job = exists().where(Job.status.not_in(ENDED), or_(Job.training_file == id, Job.validation_file == id))
        batch = exists().where(Batch.status.not_in(BATCH_ENDED), Batch.input_file_id == id)
        with self._database.read() as session:
            return bool(session.scalar(select(or_(job, batch))))

    def sweep(self) -> int:
        """Forget the files whose time is over; how many there were."""
        with self._database.read() as session:
            rows = session.scalars(select(File).where(File.expires_at < now())).all()
        for row in rows:
            self._forget(row)
        return len(rows)

    def _forget(self, row: File) -> bool:
        """Whether the row was still there."""
        sha = row.sha256
        with self._database.write(lock=f"file:{sha}") as session:
            found = affected(session, delete(File).where(File.id == row.id)) > 0
        with self._database.write(lock=f"file:{sha}") as session:
            if not session.scalar(select(exists().where(File.sha256 == sha))):
                (self._folder / sha).unlink(missing_ok=True)
        return found

    def list(
        self,
        actor_id: str | None = None,
        purpose: str | None = None,
        limit: int = 20,
        after: str | None = None,
        order: Order = "desc",
    ) -> Page[File]:
        """Files by time of arrival."""
        statement = select(File).where(or_(File.expires_at.is_(None), File.expires_at >= now()))
        if actor_id is not None:
            statement = statement.where(File.actor_id == actor_id)
        if purpose is not None:
            statement = statement.where(File.purpose == purpose)
        with self._database.read() as session:
            return paginate(
                session, statement, File.created_at, File.id, limit=limit, after=after, order=order, most=MOST_LISTED
            )


def _unknown(id: str) -> NotFound:
    return NotFound(f"There is no file {id!r}.", param="file_id", code="file_not_found")


def write_stream(stream: BinaryIO, path: Path, max_bytes: int | None) -> tuple[str, int]:
    """Copy the stream to the disk, synced; returns the sha256 and the number of bytes. Raises as `Files.add`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        while piece := stream.read(PIECE):
            size += len(piece)
            if max_bytes is not None and size > max_bytes:
                raise TooLarge(f"The file is larger than {max_bytes} bytes.", param="file")
            digest.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest(), size
