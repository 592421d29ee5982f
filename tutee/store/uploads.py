"""Uploads: a file that arrives in parts, in any order, and becomes a file when it is complete.

Parts lie in `home/uploads/<upload>/<part>` until then. The file's id is chosen when the upload begins, so completing it
after a crash, or twice at once, makes one file. Nothing of an upload outlives its hour but the file.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound, TooLarge, Unavailable
from tutee.ids import new_id
from tutee.store.database import Database, affected
from tutee.store.files import Files, write_stream
from tutee.store.schema import File, Upload, UploadPart, now

OPEN_SECONDS = 3600.0


class Uploads:
    """Uploads by id."""

    def __init__(self, database: Database, home: Path, files: Files) -> None:
        self._database = database
        self._folder = home / "uploads"
        self._files = files

    def add(
        self, actor_id: str, filename: str, purpose: str, mime_type: str, size: int, lifetime: int | None = None
    ) -> Upload:
        """Begin an upload of `size` bytes, open for an hour; `lifetime` is that of the file, in seconds."""
        moment = now()
        row = Upload(
            id=new_id("upload"),
            actor_id=actor_id,
            status="pending",
            filename=filename,
            purpose=purpose,
            mime_type=mime_type,
            bytes=size,
            lifetime=lifetime,
            file_id=new_id("file"),
            created_at=moment,
            expires_at=moment + OPEN_SECONDS,
        )
        with self._database.write() as session:
            session.add(row)
            return row

    def get(self, id: str, actor_id: str) -> Upload:
        """The upload.

        Raises:
            NotFound: no such upload, or somebody else's (code upload_not_found).
        """
        with self._database.read() as session:
            return _require(session, id, actor_id)

    def add_part(self, id: str, actor_id: str, content: BinaryIO, most: int) -> UploadPart:
        """Keep one part of at most `most` bytes.

        Raises:
            NotFound: as `get`. TooLarge: a part of more than `most` bytes.
            InvalidInput: the upload is not open, or has more bytes now than it announced.
            Unavailable: the disk is full; nothing is kept.
        """
        upload = self.get(id, actor_id)
        _require_open(upload)
        part = UploadPart(id=new_id("part"), upload_id=id, created_at=now())
        path = self._folder / id / part.id
        try:
            part.sha256, part.bytes = write_stream(content, path, most)
            with self._database.write(lock=f"upload:{id}") as session:
                _require_open(_require(session, id, actor_id))
                before = session.scalar(select(func.sum(UploadPart.bytes)).where(UploadPart.upload_id == id)) or 0
                if int(before) + part.bytes > upload.bytes:
                    message = f"The parts come to more than the {upload.bytes} bytes that were announced."
                    raise InvalidInput(message, param="data", code="invalid_value")
                session.add(part)
                return part
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, TooLarge):
                raise TooLarge(f"A part may have at most {most} bytes.", param="data") from None
            if isinstance(error, OSError):
                raise Unavailable(f"The part could not be kept: {error.strerror}.", code="disk_full") from error
            raise

    def complete(self, id: str, actor_id: str, part_ids: Sequence[str], md5: str | None = None) -> tuple[Upload, File]:
        """Put the parts together, in this order.

        Raises:
            NotFound: as `get`.
            InvalidInput: the upload is not open; a part that it does not have, or twice, or whose bytes are gone; a
                wrong number of bytes; other bytes than `md5` (hex) says.
        """
        with self._database.read() as session:
            upload = _require(session, id, actor_id)
            _require_open(upload)
            rows = session.scalars(select(UploadPart).where(UploadPart.upload_id == id)).all()
        parts = {row.id: row for row in rows}
        for i, part_id in enumerate(part_ids):
            if part_id not in parts or part_id in part_ids[:i]:
                said = "is not a part of this upload" if part_id not in parts else "is named twice"
                raise InvalidInput(f"'part_ids[{i}]' {said}.", param=f"part_ids[{i}]", code="invalid_value")
        total = sum(parts[part_id].bytes for part_id in part_ids)
        if total != upload.bytes:
            message = f"The parts have {total} bytes, but {upload.bytes} were announced."
            raise InvalidInput(message, param="part_ids", code="invalid_value")
        paths = [self._folder / id / part_id for part_id in part_ids]
        if not all(path.is_file() for path in paths):  # a backup holds no parts
            raise InvalidInput("Parts are gone from the disk; begin a new upload.", param="part_ids", code="parts_gone")
        joined = _Joined(paths, md5)
        content, lifetime = cast(BinaryIO, joined), upload.lifetime
        file = self._files.add(content, upload.filename, upload.purpose, actor_id, id=upload.file_id, lifetime=lifetime)
        self._end(id, "completed")
        return self.get(id, actor_id), file

    def cancel(self, id: str, actor_id: str) -> Upload:
        """Give an open upload up; its parts are deleted.

        Raises:
            NotFound: as `get`. InvalidInput: it is not open.
        """
        _require_open(self.get(id, actor_id))
        self._end(id, "cancelled")
        return self.get(id, actor_id)

    def sweep(self) -> int:
        """End the uploads whose hour is over, with their parts; how many there were."""
        with self._database.read() as session:
            late = session.scalars(select(Upload.id).where(Upload.status == "pending", Upload.expires_at < now())).all()
        for id in late:
            self._end(id, "expired")
        return len(late)

    def _end(self, id: str, status: str) -> None:
        with self._database.write(lock=f"upload:{id}") as session:
            statement = update(Upload).where(Upload.id == id, Upload.status == "pending").values(status=status)
            affected(session, statement)
        shutil.rmtree(self._folder / id, ignore_errors=True)


class _Joined:
    """Files read one after the other; refuses at the end when their md5 is not the given one."""

    def __init__(self, paths: Sequence[Path], md5: str | None) -> None:
        self._paths = list(paths)
        self._md5 = md5
        self._digest = hashlib.md5(usedforsecurity=False)
        self._open: BinaryIO | None = None

    def read(self, size: int) -> bytes:
        while True:
            if self._open is None:
                if not self._paths:
                    self._check()
                    return b""
                self._open = self._paths.pop(0).open("rb")
            if piece := self._open.read(size):
                self._digest.update(piece)
                return piece
            self._open.close()
            self._open = None

    def _check(self) -> None:
        if self._md5 is not None and self._digest.hexdigest() != self._md5.lower():
            message = f"The md5 of the parts is {self._digest.hexdigest()}, not {self._md5}."
            raise InvalidInput(message, param="md5", code="invalid_value")


def status_of(upload: Upload) -> str:
    """The upload's status now: one whose hour is over has expired, whether it was swept or not."""
    return "expired" if upload.status == "pending" and upload.expires_at < now() else upload.status


def _require(session: Session, id: str, actor_id: str) -> Upload:
    row = session.get(Upload, id)
    if row is None or row.actor_id != actor_id:
        raise NotFound(f"There is no upload {id!r}.", param="upload_id", code="upload_not_found")
    return row


def _require_open(upload: Upload) -> None:
    status = status_of(upload)
    if status != "pending":
        raise InvalidInput(f"The upload {upload.id} is {status}.", param="upload_id", code="upload_not_open")
