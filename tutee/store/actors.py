"""People (and simulated people, judges and service accounts) and what they agreed to."""

from __future__ import annotations

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.database import Database
from tutee.store.schema import DEFAULT_PROJECT, Actor, Consent

OWNER = "owner"
"""Handle of the person whose machine this is."""
KINDS = ("user", "trainer", "admin", "sim", "judge", "service")
SCOPES = ("store", "eval", "train", "share")


class Actors:
    """Who talks here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_or_create(self, handle: str, kind: str = "user", project_id: str = DEFAULT_PROJECT) -> Actor:
        """The actor with this handle in this project, made on first use. The owner is always of kind admin.

        Raises:
            InvalidInput: an empty or overlong handle, or an unknown kind.
        """
        if not isinstance(handle, str) or not 1 <= len(handle) <= 100 or not handle.isprintable():
            raise InvalidInput("A handle must be 1 to 100 printable characters.", param="handle", code="invalid_value")
        if kind not in KINDS:
            raise InvalidInput(f"'kind' must be one of {', '.join(KINDS)}.", param="kind", code="invalid_value")
        admin = handle == OWNER
        handle = handle if project_id == DEFAULT_PROJECT else f"{project_id}/{handle}"
        found = self.by_handle(handle)
        if found is not None:
            return found
        with self._database.write(lock="actors") as session:
            actor = session.scalar(select(Actor).where(Actor.handle == handle))
            if actor is None:
                actor = Actor(id=new_id("actor"), handle=handle, kind="admin" if admin else kind, project_id=project_id)
                session.add(actor)
            return actor

    def by_handle(self, handle: str) -> Actor | None:
        """The actor with this handle, if there is one."""
        with self._database.read() as session:
            return session.scalar(select(Actor).where(Actor.handle == handle))

    def get(self, id: str) -> Actor:
        """The actor.

        Raises:
            NotFound: no such actor.
        """
        with self._database.read() as session:
            return require_actor(session, id)

    def list(self) -> list[Actor]:
        """Everybody, oldest first."""
        with self._database.read() as session:
            return list(session.scalars(select(Actor).order_by(Actor.created_at, Actor.id)))


class Consents:
    """What each actor agreed to, by scope. Append-only: the newest decision counts.

    With no decision: `store` is granted; `eval` and `train` only by the local owner; `share` by nobody.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, actor_id: str, scope: str, granted: bool, policy_version: str | None = None) -> Consent:
        """Record a decision.

        Raises:
            NotFound: no such actor.
            InvalidInput: an unknown scope.
        """
        _check_scope(scope)
        with self._database.write(lock=f"consent:{actor_id}") as session:
            require_actor(session, actor_id)
            newer = aliased(Consent)
            before = session.scalar(
                select(Consent.id).where(
                    Consent.actor_id == actor_id,
                    Consent.scope == scope,
                    ~exists().where(newer.supersedes == Consent.id),
                )
            )
            row = Consent(
                id=new_id("consent"),
                actor_id=actor_id,
                scope=scope,
                granted=bool(granted),
                policy_version=policy_version,
                supersedes=before,
            )
            session.add(row)
            session.flush()
            audit.append(session, "consent", actor_id, actor_id, {"scope": scope, "granted": bool(granted)})
            return row

    def granted(self, actor_id: str, scope: str) -> bool:
        """Whether the actor agrees to this scope now.

        Raises:
            NotFound: no such actor.
        """
        found = self.all(scope).get(actor_id)
        if found is None:
            raise NotFound(f"There is no actor {actor_id!r}.", param="actor_id")
        return found

    def all(self, scope: str) -> dict[str, bool]:
        """Actor id → whether they agree, for everybody, in one query."""
        _check_scope(scope)
        newer = aliased(Consent)
        statement = select(Actor.id, Actor.handle, Consent.granted).outerjoin(
            Consent,
            (Consent.actor_id == Actor.id) & (Consent.scope == scope) & ~exists().where(newer.supersedes == Consent.id),
        )
        with self._database.read() as session:
            return {
                row.id: row.granted if row.granted is not None else _default(scope, row.handle)
                for row in session.execute(statement)
            }


def require_actor(session: Session, id: str) -> Actor:
    """The actor, or NotFound."""
    actor = session.get(Actor, id)
    if actor is None:
        raise NotFound(f"There is no actor {id!r}.", param="actor_id")
    return actor


def _check_scope(scope: str) -> None:
    if scope not in SCOPES:
        raise InvalidInput(f"'scope' must be one of {', '.join(SCOPES)}.", param="scope", code="invalid_value")


def _default(scope: str, handle: str) -> bool:
    return scope == "store" or (handle == OWNER and scope in ("eval", "train"))
