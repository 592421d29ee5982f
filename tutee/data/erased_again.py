"""Erasures outlive a restore: what was erased after a backup was made is erased again when that backup comes back.

Looks at the database that is about to be replaced; a restore into another home knows nothing of what was erased in this
one. Every erasure leaves a row in the audit log, so one that is newer than the newest row there is not in the backup.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from tutee.data.taken_back import forget_taken_back
from tutee.errors import NotFound, TuteeError
from tutee.store import Store
from tutee.store.database import Database
from tutee.store.persons import ERASED
from tutee.store.schema import Audit, Erasure


@dataclass(frozen=True, slots=True)
class Known:
    """The tombstones of a database, oldest first; those in `persons` are of whole people."""

    tombstones: Sequence[Erasure] = ()
    persons: frozenset[str] = frozenset()


def known_in(url: str) -> Known:
    """What was erased in a database; nothing where there is none, or none that can be read."""
    with closing(Database(url)) as database:
        if database.path is not None and not database.path.exists():
            return Known()
        try:
            with database.read() as session:
                tombstones = session.scalars(select(Erasure).order_by(Erasure.requested_at, Erasure.id)).all()
                people = session.scalars(select(Audit.object).where(Audit.action == ERASED)).all()
        except (TuteeError, SQLAlchemyError):  # damaged, or not ours: perhaps why it is replaced
            return Known()
    return Known(tombstones, frozenset(people))


def erase_again(store: Store, known: Known) -> int:
    """Erase in a restored store what was erased since its backup was made; how many erasures that were."""
    with store.database.read() as session:
        last = session.scalar(select(func.max(Audit.created_at))) or 0.0
    later = [tombstone for tombstone in known.tombstones if tombstone.requested_at > last]
    for tombstone in later:
        _erase(store, tombstone, whole_person=tombstone.id in known.persons)
    if later:
        forget_taken_back(store)
    return len(later)


def _erase(store: Store, tombstone: Erasure, whole_person: bool) -> None:
    """What the backup does not hold is not there to be erased."""
    if whole_person:
        assert tombstone.actor_id is not None
        with suppress(NotFound):
            store.persons.erase(tombstone.actor_id)
        return
    if tombstone.conversation_id is not None and tombstone.actor_id is not None:
        with suppress(NotFound):
            store.conversations.delete(tombstone.conversation_id, tombstone.actor_id)
    for id in tombstone.feedback_ids:
        with suppress(NotFound):
            store.feedback.erase(id, None)
