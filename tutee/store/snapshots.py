"""Snapshots: frozen datasets named by their content. Written once; erasure empties rows but keeps their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select

from tutee.errors import InvalidInput, NotFound
from tutee.store import blobs
from tutee.store.database import Database
from tutee.store.records import SnapshotItem
from tutee.store.schema import Snapshot, SnapshotRow, now

SPLITS = ("train", "held_out")


class Snapshots:
    """All datasets that training ever saw."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        sha: str,
        kind: str,
        counts: Mapping[str, Any],
        rows: Iterable[SnapshotItem],
        *,
        query: str | None = None,
        code_sha: str | None = None,
        parent_sha: str | None = None,
        split_rule: str | None = None,
    ) -> Snapshot:
        """Freeze a dataset; when this sha is there already, it is returned as it is.

        Args:
            sha: sha256 over the canonical rows.
            rows: in order; the order is kept.

        Raises:
            InvalidInput: a row whose split is neither train nor held_out.
            NotFound: no such parent.
        """
        items = list(rows)
        for i, item in enumerate(items):
            if item.split not in SPLITS:
                raise InvalidInput(f"Row {i} has split {item.split!r}; it must be train or held_out.", param="split")
        with self._database.write(lock="snapshots") as session:
            known = session.get(Snapshot, sha)
            if known is not None:
                return known
            if parent_sha is not None and session.get(Snapshot, parent_sha) is None:
                raise _not_found(parent_sha)
            snapshot = Snapshot(
                sha=sha,
                kind=kind,
                counts=dict(counts),
                row_count=len(items),
                query=query,
                code_sha=code_sha,
                parent_sha=parent_sha,
                split_rule=split_rule,
                created_at=now(),
            )
            session.add(snapshot)
            session.flush()
            values = [_values(sha, i, item) for i, item in enumerate(items)]
            for batch in blobs.batched(values):
                session.execute(insert(SnapshotRow), batch)
            return snapshot

    def get(self, sha: str) -> Snapshot:
        """The snapshot.

        Raises:
            NotFound: no such snapshot.
        """
        with self._database.read() as session:
            snapshot = session.get(Snapshot, sha)
            if snapshot is None:
                raise _not_found(sha)
            return snapshot

    def rows(self, sha: str, split: str | None = None) -> Sequence[SnapshotRow]:
        """The rows in order, without those that were erased since.

        Raises:
            NotFound: no such snapshot.
        """
        self.get(sha)
        statement = select(SnapshotRow).where(SnapshotRow.snapshot_sha == sha, SnapshotRow.payload.is_not(None))
        if split is not None:
            statement = statement.where(SnapshotRow.split == split)
        with self._database.read() as session:
            return session.scalars(statement.order_by(SnapshotRow.position)).all()

    def containing(self, feedback_id: str) -> Sequence[tuple[Snapshot, SnapshotRow]]:
        """Every snapshot row made from this feedback, with its snapshot, oldest first; erased ones too."""
        statement = (
            select(Snapshot, SnapshotRow)
            .join(SnapshotRow, SnapshotRow.snapshot_sha == Snapshot.sha)
            .where(SnapshotRow.feedback_id == feedback_id)
            .order_by(Snapshot.created_at, SnapshotRow.position)
        )
        with self._database.read() as session:
            return [(row[0], row[1]) for row in session.execute(statement)]

    def list(self) -> Sequence[Snapshot]:
        """Every snapshot, newest first."""
        with self._database.read() as session:
            return session.scalars(select(Snapshot).order_by(Snapshot.created_at.desc(), Snapshot.sha)).all()


def _values(sha: str, position: int, item: SnapshotItem) -> dict[str, Any]:
    return {
        "snapshot_sha": sha,
        "position": position,
        "row_sha": item.row_sha,
        "split": item.split,
        "kind": item.kind,
        "feedback_id": item.feedback_id,
        "actor_id": item.actor_id,
        "payload": dict(item.payload),
    }


def _not_found(sha: str) -> NotFound:
    return NotFound(f"There is no snapshot {sha!r}.", param="snapshot_sha", code="snapshot_not_found")
