"""Keyset pagination: a page is found by the last row of the page before, so inserts never shift or repeat rows."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from tutee.errors import InvalidInput
from tutee.store.records import Page

Row = TypeVar("Row")
Order = Literal["asc", "desc"]

MAX_LIMIT = 1000


def paginate(
    session: Session,
    statement: Select[Row],
    key: InstrumentedAttribute[Any],
    unique: InstrumentedAttribute[str],
    *,
    limit: int,
    after: str | None = None,
    order: Order = "desc",
    most: int = MAX_LIMIT,
) -> Page[Row]:
    """One page of `statement`, sorted by `key` and then by the id column `unique`.

    Args:
        limit: how many rows, 1 to `most`.
        after: id of the last row seen; it must be one that `statement` itself could return.

    Raises:
        InvalidInput: a limit out of range, an unknown order, or an `after` that is not in the list.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= most:
        raise InvalidInput(f"'limit' must be from 1 to {most}.", param="limit", code="invalid_value")
    if order not in ("asc", "desc"):
        raise InvalidInput("'order' must be asc or desc.", param="order", code="invalid_value")
    place = tuple_(key, unique)
    if after is not None:
        last = session.execute(statement.with_only_columns(key, unique).where(unique == after)).first()
        if last is None:
            raise InvalidInput(f"'after' is {after!r}, which is not in this list.", param="after", code="invalid_value")
        bound = tuple_(*last)
        statement = statement.where(place < bound if order == "desc" else place > bound)
    sort = (key.desc(), unique.desc()) if order == "desc" else (key, unique)
    rows = list(session.scalars(statement.order_by(*sort).limit(limit + 1)))
    return Page(rows[:limit], len(rows) > limit)
