"""The events that were told of a response in the background, kept in batches: written while it runs, read to go on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from tutee.store.schema import ResponseEvents


def keep(session: Session, response_id: str, first: int, events: Sequence[bytes]) -> None:
    """Add a batch; `first` is the `sequence_number` of its first event. Each event is JSON in one line."""
    if events:
        packed = zlib.compress(b"\n".join(events))
        session.add(ResponseEvents(response_id=response_id, first=first, count=len(events), packed=packed))


def told(session: Session, response_id: str, after: int = -1) -> list[bytes]:
    """The events after number `after`, in order."""
    found = select(ResponseEvents).where(
        ResponseEvents.response_id == response_id, ResponseEvents.first + ResponseEvents.count > after + 1
    )
    out: list[bytes] = []
    for batch in session.scalars(found.order_by(ResponseEvents.first)):
        lines = zlib.decompress(batch.packed).split(b"\n")
        out += lines[max(0, after + 1 - batch.first) :]
    return out


def next_number(session: Session, response_id: str) -> int:
    """The number that the next event of a response has."""
    last = session.scalars(
        select(ResponseEvents)
        .where(ResponseEvents.response_id == response_id)
        .order_by(ResponseEvents.first.desc())
        .limit(1)
    ).first()
    return 0 if last is None else last.first + last.count
