"""Batches: many requests, answered when there is time, each at most once in the output whatever is killed when.

    validating ─▶ in_progress ─▶ finalizing ─▶ completed | expired
        ╰─▶ failed      ╰─▶ cancelling ─▶ cancelled

The answer to a line is a row under (batch, position) until all are there; then the rows become files, under ids that
were chosen when the batch began, and go. So a batch goes on after a kill where it was: lines with a row are done, and a
file that exists already is that file. Running the lines is `serve/batches/runner.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, cast

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.json_lines import json_line
from tutee.store import audit
from tutee.store.database import Database
from tutee.store.files import BATCH_ENDED, Files
from tutee.store.paging import paginate
from tutee.store.records import Page
from tutee.store.schema import Batch, BatchLine, now
from tutee.store.webhooks import announce

WINDOW_SECONDS = 24 * 3600.0


class Batches:
    """Batches by id."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files

    def add(
        self,
        actor_id: str,
        endpoint: str,
        input_file_id: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Batch:
        """A batch whose file is still to be read; `lifetime` is that of its output files, in seconds."""
        moment = now()
        row = Batch(
            id=new_id("batch").replace("-", "_", 1),
            actor_id=actor_id,
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window="24h",
            status="validating",
            errors=[],
            metadata_=dict(metadata or {}),
            lifetime=lifetime,
            output_file_id=new_id("file"),
            error_file_id=new_id("file"),
            moments={},
            created_at=moment,
            expires_at=moment + WINDOW_SECONDS,
        )
        with self._database.write() as session:
            session.add(row)
            session.flush()
            audit.append(session, "batch.add", row.id, actor_id)
            return row

    def get(self, id: str, actor_id: str | None = None) -> Batch:
        """The batch.

        Raises:
            NotFound: no such batch, or somebody else's (code batch_not_found).
        """
        with self._database.read() as session:
            return _require(session, id, actor_id)

    def list(self, actor_id: str, limit: int = 20, after: str | None = None) -> Page[Batch]:
        """The actor's batches, newest first."""
        statement = select(Batch).where(Batch.actor_id == actor_id)
        with self._database.read() as session:
            return paginate(session, statement, Batch.created_at, Batch.id, limit=limit, after=after)

    def unfinished(self) -> Sequence[Batch]:
        """Every batch that has not ended, oldest first."""
        statement = select(Batch).where(Batch.status.not_in(BATCH_ENDED)).order_by(Batch.created_at, Batch.id)
        with self._database.read() as session:
            return session.scalars(statement).all()

    def reject(self, id: str, errors: Sequence[Mapping[str, Any]]) -> None:
        """The input file is no list of requests: nothing is run."""
        with self._database.write(lock=f"batch:{id}") as session:
            row = _require(session, id)
            row.errors = [dict(error) for error in errors]
            _end(session, row, "failed")

    def begin(self, id: str, total: int, model: str | None) -> None:
        """The file is good: its `total` lines are run from now on. Without effect on one that is being cancelled."""
        with self._database.write(lock=f"batch:{id}") as session:
            row = _require(session, id)
            row.total, row.model = total, model
            if row.status == "validating":
                _move(row, "in_progress")

    def done(self, id: str) -> set[int]:
        """Positions of the lines that have an answer."""
        with self._database.read() as session:
            return set(session.scalars(select(BatchLine.position).where(BatchLine.batch_id == id)))

    def record(self, id: str, position: int, good: bool, line: Mapping[str, Any], tokens: tuple[int, int]) -> None:
        """Keep the answer to a line; one that has an answer keeps it.

        Args:
            good: whether it goes to the output file, else to the error file.
            tokens: of prompts and of answers.
        """
        with self._database.write(lock=f"batch:{id}", durable=False) as session:
            if session.get(BatchLine, (id, position)) is not None:
                return
            row = _require(session, id)
            session.add(BatchLine(batch_id=id, position=position, good=good, line=dict(line)))
            row.completed += good
            row.failed += not good
            row.input_tokens += tokens[0]
            row.output_tokens += tokens[1]

    def request_cancel(self, id: str, actor_id: str) -> Batch:
        """Run no more lines; what is done stays. Asking again while it is being cancelled changes nothing.

        Raises:
            NotFound: as `get`. InvalidInput: it has ended, or writes its files already (code batch_ended).
        """
        with self._database.write(lock=f"batch:{id}") as session:
            row = _require(session, id, actor_id)
            if row.status == "cancelling":
                return row
            if row.status not in ("validating", "in_progress"):
                message = f"The batch {id} is {row.status} and cannot be cancelled any more."
                raise InvalidInput(message, param="batch_id", code="batch_ended")
            _move(row, "cancelling")
            audit.append(session, "batch.cancel", id, actor_id)
            return row

    def finalize(self, id: str) -> None:
        """No more lines will be run; one that is being cancelled stays so."""
        with self._database.write(lock=f"batch:{id}") as session:
            row = _require(session, id)
            if row.status == "in_progress":
                _move(row, "finalizing")

    def finish(self, id: str, status: str) -> None:
        """Write the files of a batch that nobody works on any more, and end it as completed, expired or cancelled.

        Raises:
            NotFound: its owner was erased; no file of it is left.
        """
        row = self.get(id)
        written = []
        for good, file_id, name in ((True, row.output_file_id, "output"), (False, row.error_file_id, "error")):
            if file_id is not None and self._any(id, good):
                content, filename = cast(BinaryIO, _Reader(self._lines(id, good))), f"{id}_{name}.jsonl"
                self._files.add(content, filename, "batch_output", row.actor_id, id=file_id, lifetime=row.lifetime)
                written.append(file_id)
        try:
            self._end(id, status)
        except NotFound:
            for file_id in written:
                with suppress(NotFound):
                    self._files.delete(file_id)
            raise

    def _end(self, id: str, status: str) -> None:
        with self._database.write(lock=f"batch:{id}") as session:
            row = _require(session, id)
            row.output_file_id = row.output_file_id if row.completed else None
            row.error_file_id = row.error_file_id if row.failed else None
            session.execute(delete(BatchLine).where(BatchLine.batch_id == id))
            _end(session, row, status)

    def _any(self, id: str, good: bool) -> bool:
        with self._database.read() as session:
            return bool(session.scalar(select(exists().where(BatchLine.batch_id == id, BatchLine.good.is_(good)))))

    def _lines(self, id: str, good: bool) -> Iterator[bytes]:
        statement = select(BatchLine.line).where(BatchLine.batch_id == id, BatchLine.good.is_(good))
        with self._database.read() as session:
            for line in session.scalars(statement.order_by(BatchLine.position).execution_options(yield_per=100)):
                yield json_line(line)


class _Reader:
    """Pieces of bytes as a stream that can be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int) -> bytes:
        while len(self._left) < size and (piece := next(self._pieces, b"")):
            self._left += piece
        found, self._left = self._left[:size], self._left[size:]
        return found


def _require(session: Session, id: str, actor_id: str | None = None) -> Batch:
    row = session.get(Batch, id)
    if row is None or actor_id not in (None, row.actor_id):
        raise NotFound(f"There is no batch {id!r}.", param="batch_id", code="batch_not_found")
    return row


def _move(row: Batch, status: str) -> None:
    row.status = status
    row.moments = {**row.moments, status: now()}


def _end(session: Session, row: Batch, status: str) -> None:
    if row.status not in BATCH_ENDED:
        _move(row, status)
        announce(session, row.actor_id, f"batch.{status}", row.id)
        audit.append(session, f"batch.{status}", row.id, row.actor_id)
