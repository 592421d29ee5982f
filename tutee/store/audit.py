"""Who did what, as a hash chain: change one old row and every later hash is wrong.

hash = sha256(prev_hash + "\\n" + canonical JSON of the row). Knows nothing of what the actions mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tutee.store.database import Database, take_lock, to_json
from tutee.store.schema import Audit, now

GENESIS = "0" * 64


class AuditLog:
    """The log; rows are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        action: str,
        object: str,
        actor_id: str | None = None,
        detail: Mapping[str, Any] | None = None,
        before_sha: str | None = None,
        after_sha: str | None = None,
    ) -> Audit:
        """Append one row. `object` names what was acted on, mostly an id."""
        with self._database.write() as session:
            return append(session, action, object, actor_id, detail, before_sha, after_sha)

    def list(self, limit: int = 100) -> list[Audit]:
        """The newest rows, newest first."""
        with self._database.read() as session:
            return list(session.scalars(select(Audit).order_by(Audit.seq.desc()).limit(limit)))

    def verify(self) -> int | None:
        """The `seq` of the first row that does not follow from the one before, or None when the chain holds."""
        with self._database.read() as session:
            previous, expected = GENESIS, 1
            for row in session.scalars(select(Audit).order_by(Audit.seq).execution_options(yield_per=1000)):
                if row.seq != expected or row.prev_hash != previous or row.hash != _hash(row):
                    return row.seq
                previous, expected = row.hash, expected + 1
        return None


def append(
    session: Session,
    action: str,
    object: str,
    actor_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
    before_sha: str | None = None,
    after_sha: str | None = None,
) -> Audit:
    """Add a row inside somebody's transaction. Call it last: it holds the log's lock until the commit."""
    take_lock(session, "audit")
    last = session.execute(select(Audit.seq, Audit.hash).order_by(Audit.seq.desc()).limit(1)).first()
    row = Audit(
        seq=last.seq + 1 if last else 1,
        prev_hash=last.hash if last else GENESIS,
        actor_id=actor_id,
        action=action,
        object=object,
        detail=json.loads(to_json(dict(detail or {}))),
        before_sha=before_sha,
        after_sha=after_sha,
        created_at=now(),
    )
    row.hash = _hash(row)
    session.add(row)
    session.flush()
    return row


def _hash(row: Audit) -> str:
    said = [
        row.seq,
        row.actor_id,
        row.action,
        row.object,
        row.detail,
        row.before_sha,
        row.after_sha,
        repr(row.created_at),
    ]
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{row.prev_hash}\n{canonical}".encode()).hexdigest()
