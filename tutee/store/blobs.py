"""Content by its sha256: put, and drop when nothing refers to it any more. Knows who refers to blobs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from sqlalchemy import delete, exists
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tutee.store.schema import Blob, Conversation, Generation, Message, table

Item = TypeVar("Item")

BATCH = 5000
"""Most parameters in one IN list; SQLite takes 32766, Postgres 65535."""


_PUT = {
    "postgresql": postgresql.insert(table(Blob)).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(table(Blob)).on_conflict_do_nothing(),
}


def put(session: Session, data: bytes) -> str:
    """Store `data` unless it is there, and return its sha256."""
    sha = hashlib.sha256(data).hexdigest()
    session.execute(_PUT[session.get_bind().dialect.name], {"sha256": sha, "data": data})
    return sha


def put_text(session: Session, text: str) -> str:
    """Store a text as UTF-8; a lone surrogate, which UTF-8 cannot say, becomes `?`."""
    return put(session, text.encode("utf-8", "replace"))


def drop_unreferenced(session: Session, shas: Iterable[str]) -> None:
    """Delete those of `shas` that no message, generation or conversation uses any more."""
    for batch in batched(sorted(set(shas))):
        session.execute(
            delete(Blob).where(
                Blob.sha256.in_(batch),
                ~exists().where(Message.blob_sha == Blob.sha256),
                ~exists().where(Generation.prompt_sha == Blob.sha256),
                ~exists().where(Conversation.system_sha == Blob.sha256),
            )
        )


def batched(items: Iterable[Item], size: int = BATCH) -> Iterator[Sequence[Item]]:
    """`items` in lists short enough for one IN."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
