"""Column types and small mixins that every table shares. Knows SQLAlchemy, no table.

Ids are texts from `tutee.ids` with a prefix a table; times are seconds since 1970 as double precision; JSON is
plain JSON (not JSONB, which refuses the NUL character that a byte-level model can emit).
"""

from __future__ import annotations

import time
from typing import Annotated, Any, cast

from sqlalchemy import JSON, BigInteger, Double, Integer, LargeBinary, String, Table, Text, text
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.types import TypeDecorator


class FreeText(TypeDecorator[str]):
    """Text that people or models wrote: what Postgres cannot hold (NUL, lone surrogates) becomes U+FFFD or `?`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


BIG = BigInteger().with_variant(Integer, "sqlite")
"""64 bits on both databases; SQLite counts up only in columns declared INTEGER."""

DEFAULT_PROJECT = "proj_default"
"""The project of everybody who never heard of projects; every home has it."""


def project_of_maker(context: DefaultExecutionContext) -> str:
    """The project of a new row: that of the actor, else of the job, that made it; so the two can never disagree."""
    made = context.get_current_parameters()  # type: ignore[no-untyped-call]
    for maker in ("actor", "job"):
        if (id := made.get(f"{maker}_id")) is not None:
            found = context.connection.scalar(text(f"SELECT project_id FROM {maker} WHERE id = :id"), {"id": id})
            return found or DEFAULT_PROJECT
    return DEFAULT_PROJECT


Id = Annotated[str, mapped_column(String)]
InProject = Annotated[
    str, mapped_column(String, default=project_of_maker, server_default=DEFAULT_PROJECT, nullable=False)
]
"""The `project_id` of a table with an `actor_id` or a `job_id`: filled in from it when the row is made."""
Sha = Annotated[str, mapped_column(String)]
Word = Annotated[str, mapped_column(String)]
Json = Annotated[dict[str, Any], mapped_column(JSON(none_as_null=True))]
JsonList = Annotated[list[Any], mapped_column(JSON(none_as_null=True))]
FreeString = Annotated[str, mapped_column(FreeText)]


class Base(DeclarativeBase):
    """The declarative base: `Base.metadata` is the schema that the newest migration makes."""

    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it as a class attribute)
        float: Double,
        int: BIG,
        bytes: LargeBinary,
    }


def table(kind: type[Base]) -> Table:
    """The table of a class, for statements that need no objects: those run several times faster."""
    return cast(Table, kind.__table__)


def now() -> float:
    """Seconds since 1970 with microseconds, the clock of every `created_at`."""
    return time.time()
