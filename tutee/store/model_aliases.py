"""Other names for models: what scripts that were written for another server ask for, and who answers here.

A pattern is a name, or one with `*` for any run of characters (`gpt-4*`). It stands for a target: a version's name, id
or number, or `chat`, which follows every promotion. Aliases belong to the whole server, as versions do. A name that
exists here is never looked up; the exact pattern goes before a wildcard, the longer wildcard before the shorter, and a
target is never itself an alias, so there are no chains to follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.store import audit
from tutee.store.database import Database
from tutee.store.schema import ModelAlias, ModelVersion, now
from tutee.store.versions import CHAT, find_version

PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.:/*@+-]{0,199}")


class ModelAliases:
    """The table of other names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, pattern: str, target: str, actor_id: str | None = None) -> ModelAlias:
        """Let `pattern` mean `target`, whatever it meant before.

        Raises:
            InvalidInput: no name or pattern, or one that a model here has already (name_taken).
            NotFound: there is no such target.
        """
        if not PATTERN.fullmatch(pattern):
            message = f"{pattern!r} is no model name: letters, digits and _.:/@+- are allowed, and * for anything."
            raise InvalidInput(message, param="pattern", code="invalid_value")
        with self._database.write(lock="versions") as session:
            if _exists(session, pattern):
                message = f"A model here is called {pattern!r} already, and a name that exists is never looked up."
                raise InvalidInput(message, param="pattern", code="name_taken")
            if target != CHAT:  # which every home has as soon as it is served
                find_version(session, target, param="target")
            row = session.merge(ModelAlias(pattern=pattern, target=target, actor_id=actor_id, created_at=now()))
            audit.append(session, "model.alias", pattern, actor_id, {"target": target})
            return row

    def remove(self, pattern: str, actor_id: str | None = None) -> None:
        """Forget an alias.

        Raises:
            NotFound: there is none with this pattern.
        """
        with self._database.write(lock="versions") as session:
            if session.get(ModelAlias, pattern) is None:
                raise NotFound(f"There is no alias {pattern!r}.", param="pattern", code="alias_not_found")
            session.execute(delete(ModelAlias).where(ModelAlias.pattern == pattern))
            audit.append(session, "model.alias.remove", pattern, actor_id, {})

    def list(self) -> Sequence[ModelAlias]:
        """Every alias, in the order in which they are tried."""
        with self._database.read() as session:
            return _in_order(session)

    def version(self, name: str) -> ModelVersion:
        """Who answers to `name`: the model of that name, else what the first alias that fits stands for.

        Raises:
            NotFound: nobody, or the target is gone (code model_not_found, param `model`).
        """
        with self._database.read() as session:
            try:
                return find_version(session, name)
            except NotFound:
                found = next((row for row in _in_order(session) if fits(row.pattern, name)), None)
                if found is None:
                    raise
            try:
                return find_version(session, found.target)
            except NotFound:
                message = f"{name!r} stands for {found.target!r} (alias {found.pattern!r}), which is not here any more."
                raise NotFound(message, param="model", code="model_not_found") from None


def fits(pattern: str, name: str) -> bool:
    """Whether a name is one of those that the pattern stands for."""
    return fnmatchcase(name, pattern)


def _in_order(session: Session) -> Sequence[ModelAlias]:
    rows = session.scalars(select(ModelAlias)).all()
    return sorted(rows, key=lambda row: ("*" in row.pattern, -len(row.pattern), row.pattern))


def _exists(session: Session, name: str) -> bool:
    try:
        find_version(session, name)
    except NotFound:
        return False
    return True
