"""Projects: walls between what different keys make. Everything has a project; without a word it is the default one.

An actor lives in one project (`Actors.get_or_create`), and rows belong to actors, so a query that asks whose a row is
cannot mix two projects up. Keys that name nobody act as their project's service account and so share what they make.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.database import Database
from tutee.store.paging import paginate
from tutee.store.records import Page
from tutee.store.schema import DEFAULT_PROJECT, Project, now

LONGEST_NAME = 200
SERVICE = "service"
"""Handle and kind of the actor of a project's keys that name nobody."""


class Projects:
    """Projects by id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str) -> Project:
        """A new, empty project.

        Raises:
            InvalidInput: a name that is empty or too long.
        """
        row = Project(id=new_id("proj").replace("-", "_", 1), name=_check_name(name))
        with self._database.write() as session:
            session.add(row)
            session.flush()
            audit.append(session, "project.add", row.id, None, {"name": name})
            return row

    def get(self, id: str) -> Project:
        """The project, archived or not.

        Raises:
            NotFound: no such project (code project_not_found).
        """
        with self._database.read() as session:
            return _require(session, id)

    def list(self, limit: int = 20, after: str | None = None, include_archived: bool = False) -> Page[Project]:
        """Projects, newest first."""
        statement = select(Project)
        if not include_archived:
            statement = statement.where(Project.archived_at.is_(None))
        with self._database.read() as session:
            return paginate(session, statement, Project.created_at, Project.id, limit=limit, after=after)

    def rename(self, id: str, name: str) -> Project:
        """Raises as `add` and `get`."""
        with self._database.write() as session:
            row = _require(session, id)
            row.name = _check_name(name)
            audit.append(session, "project.rename", id, None, {"name": name})
            return row

    def set_limits(self, id: str, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> Project:
        """What all keys of the project together may use; None: no limit.

        Raises:
            NotFound: no such project. InvalidInput: a limit below 1.
        """
        with self._database.write() as session:
            row = _require(session, id)
            row.requests_per_minute = check_limit("requests_per_minute", requests_per_minute)
            row.tokens_per_minute = check_limit("tokens_per_minute", tokens_per_minute)
            limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
            audit.append(session, "project.limits", id, None, limits)
            return row

    def archive(self, id: str) -> Project:
        """Close a project for good: its keys open nothing any more; what they made stays.

        Raises:
            NotFound: no such project. InvalidInput: the default one, which cannot be archived.
        """
        if id == DEFAULT_PROJECT:
            raise InvalidInput("The default project cannot be archived.", param="project_id", code="invalid_value")
        with self._database.write() as session:
            row = _require(session, id)
            row.archived_at = row.archived_at or now()
            audit.append(session, "project.archive", id)
            return row


def check_limit(name: str, value: int | None) -> int | None:
    """Raises InvalidInput for a limit that is no limit."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidInput(f"'{name}' must be a whole number from 1.", param=name, code="integer_below_min_value")
    return value


def require_open(session: Session, id: str) -> None:
    """Raises InvalidInput for an archived project."""
    if _require(session, id).archived_at is not None:
        message = f"The project {id} is archived: it takes no new keys."
        raise InvalidInput(message, param="project_id", code="project_archived")


def _check_name(name: str) -> str:
    if not name.strip() or len(name) > LONGEST_NAME:
        raise InvalidInput(f"A name must have 1 to {LONGEST_NAME} characters.", param="name", code="invalid_value")
    return name


def _require(session: Session, id: str) -> Project:
    row = session.get(Project, id)
    if row is None:
        raise NotFound(f"There is no project {id!r}.", param="project_id", code="project_not_found")
    return row
