"""Model versions and the aliases that point at them. Numbers count up from 0; a number or name is never used twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.answers import require_version
from tutee.store.database import Database
from tutee.store.erasing import snapshots_with, versions_from
from tutee.store.records import VersionRef
from tutee.store.schema import Alias, Feedback, ModelVersion, SnapshotRow, now

CHAT = "chat"
"""The alias that people talk to."""
KINDS = ("base", "adapter", "full", "upstream")
"""`upstream`: weights on another server, reached at the URL in `folder`; no hash proves which they are."""
STATES = ("candidate", "live", "archived", "rejected", "revoked")


class Versions:
    """All weights that this home knows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        name: str,
        kind: str,
        *,
        weights_sha256: str,
        folder: str,
        parent_id: str | None = None,
        job_id: str | None = None,
        snapshot_sha: str | None = None,
        state: str = "candidate",
        card: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Register a version under the next number.

        Args:
            folder: relative to the home folder (`versions/<id>`), or absolute.
            state: candidate, or rejected; only a promotion makes a version live.

        Raises:
            InvalidInput: a name that is taken, or an unknown kind or state.
            NotFound: no such parent.
        """
        if kind not in KINDS:
            raise InvalidInput(f"'kind' must be one of {', '.join(KINDS)}.", param="kind", code="invalid_value")
        if state not in ("candidate", "rejected"):
            raise InvalidInput("A new version is a candidate; promote it to make it live.", param="state")
        with self._database.write(lock="versions") as session:
            if parent_id is not None and session.get(ModelVersion, parent_id) is None:
                raise NotFound(f"There is no version {parent_id!r}.", param="parent_id", code="model_not_found")
            return _add(
                session,
                name=name,
                kind=kind,
                weights_sha256=weights_sha256,
                folder=str(folder),
                parent_id=parent_id,
                job_id=job_id,
                snapshot_sha=snapshot_sha,
                state=state,
                card=dict(card or {}),
            )

    def ensure_base(self, name: str, weights_sha256: str, folder: str, kind: str = "base") -> ModelVersion:
        """The base version with these weights, registered on first sight. The very first one goes live.

        With the kind `upstream` the "hash" is the upstream's name for the model, and `folder` its URL.
        A base of the same name with other weights is another version; its name gets the weights' first eight digits.
        """
        with self._database.write(lock="versions") as session:
            known = session.scalars(select(ModelVersion).where(ModelVersion.kind == kind)).all()
            for version in known:
                if version.weights_sha256 == weights_sha256:
                    version.folder = str(folder)
                    return version
            taken = session.scalar(select(ModelVersion.id).where(ModelVersion.name == name))
            if name == CHAT or taken is not None:
                name = f"{name}-{weights_sha256[:8]}"
            first = session.get(Alias, CHAT) is None
            version = _add(
                session,
                name=name,
                kind=kind,
                weights_sha256=weights_sha256,
                folder=str(folder),
                state="live" if first else "candidate",
                card={},
            )
            if first:
                session.add(Alias(name=CHAT, version_id=version.id, updated_at=now()))
            return version

    def get(self, which: str | int) -> ModelVersion:
        """The version with this id, name or number; an alias (`chat`) means the version it points at.

        Raises:
            NotFound: no such version (code model_not_found).
        """
        with self._database.read() as session:
            return find_version(session, which)

    def live(self) -> ModelVersion:
        """The version that people talk to.

        Raises:
            NotFound: none yet: no base was registered.
        """
        return self.alias(CHAT)

    def alias(self, name: str) -> ModelVersion:
        """The version that the alias points at.

        Raises:
            NotFound: no such alias.
        """
        with self._database.read() as session:
            return _aliased(session, name)

    def aliases(self) -> dict[str, ModelVersion]:
        """Every alias and its version."""
        statement = select(Alias.name, ModelVersion).join(ModelVersion, ModelVersion.id == Alias.version_id)
        with self._database.read() as session:
            return {row.name: row.ModelVersion for row in session.execute(statement)}

    def set_state(self, id: str, state: str, actor_id: str | None = None, why: str | None = None) -> ModelVersion:
        """Move a version that is not live to another state, with an audit row.

        Raises:
            NotFound: no such version.
            InvalidInput: an unknown state; making a version live, or unmaking the live one (promote or roll back).
        """
        if state not in STATES:
            raise InvalidInput(f"'state' must be one of {', '.join(STATES)}.", param="state", code="invalid_value")
        with self._database.write(lock="versions") as session:
            version = find_version(session, id)
            used = session.scalar(select(Alias.name).where(Alias.version_id == version.id))
            if state == "live" or used is not None:
                raise InvalidInput(
                    f"{version.name} cannot become {state} so: the live version changes by promotion or rollback.",
                    param="state",
                    code="version_is_live" if used is not None else "invalid_value",
                )
            detail = {"from": version.state, "to": state, "why": why}
            version.state = state
            session.flush()
            audit.append(session, "version.state", version.id, actor_id, detail)
            return version

    def reject(self, id: str, actor_id: str | None, why: str) -> ModelVersion:
        """Say no to a candidate, with an audit row that keeps the reason.

        Raises:
            NotFound: no such version. InvalidInput: it is no candidate (code not_a_candidate).
        """
        version = self.get(id)
        if version.state != "candidate":
            message = f"Version {version.name} is {version.state}, not a candidate."
            raise InvalidInput(message, param="version", code="not_a_candidate")
        return self.set_state(version.id, "rejected", actor_id, why)

    def set_card(self, id: str, card: Mapping[str, Any]) -> ModelVersion:
        """Replace the version's card (free facts for people: what changed, settings, warnings).

        Raises:
            NotFound: no such version.
        """
        with self._database.write(lock="versions") as session:
            version = find_version(session, id)
            version.card = dict(card)
            return version

    def descendants(self, id: str) -> Sequence[ModelVersion]:
        """The versions that were made from this one, and from those, oldest first."""
        found = {id}
        children = []
        for version in self.list():  # parents have lower numbers than their children
            if version.parent_id in found:
                found.add(version.id)
                children.append(version)
        return children

    def learned_from(self, feedback_id: str) -> Sequence[ModelVersion]:
        """The versions whose snapshot holds this feedback, and their descendants, oldest first."""
        with self._database.read() as session:
            ids = versions_from(session, snapshots_with(session, [feedback_id]))
            statement = select(ModelVersion).where(ModelVersion.id.in_(ids)).order_by(ModelVersion.number)
            return session.scalars(statement).all()

    def feedback_ids(self, id: str) -> Sequence[str]:
        """Ids of the feedback in the version's snapshot, each once, in the snapshot's order; erased ones too."""
        with self._database.read() as session:
            version = find_version(session, id)
            rows = session.scalars(
                select(SnapshotRow.feedback_id)
                .where(SnapshotRow.snapshot_sha == version.snapshot_sha, SnapshotRow.feedback_id.is_not(None))
                .order_by(SnapshotRow.position)
            )
            return list(dict.fromkeys(row for row in rows if row is not None))

    def feedback_counts(self) -> dict[str, int]:
        """Version id → how many pieces of feedback its snapshot holds; one query, zeros left out."""
        return self._counts(SnapshotRow.feedback_id.is_not(None))

    def erased_counts(self) -> dict[str, int]:
        """Version id → how many of them were erased since; one query, zeros left out."""
        there = select(Feedback.id).where(Feedback.id == SnapshotRow.feedback_id)
        return self._counts(SnapshotRow.feedback_id.is_not(None), ~there.exists())

    def _counts(self, *which: ColumnElement[bool]) -> dict[str, int]:
        statement = (
            select(ModelVersion.id, func.count(SnapshotRow.feedback_id.distinct()))
            .join(SnapshotRow, SnapshotRow.snapshot_sha == ModelVersion.snapshot_sha)
            .where(*which)
            .group_by(ModelVersion.id)
        )
        with self._database.read() as session:
            return {row[0]: row[1] for row in session.execute(statement)}

    def ref(self, id: str) -> VersionRef:
        """Number and name of the version with this id.

        Raises:
            NotFound: no such version.
        """
        with self._database.read() as session:
            return require_version(session, id)

    def list(self, state: str | None = None) -> Sequence[ModelVersion]:
        """Every version, or those in this state, oldest first."""
        statement = select(ModelVersion).order_by(ModelVersion.number)
        if state is not None:
            statement = statement.where(ModelVersion.state == state)
        with self._database.read() as session:
            return session.scalars(statement).all()


def find_version(session: Session, which: str | int, param: str = "model") -> ModelVersion:
    """The row by id, name, number or alias, or NotFound."""
    text = str(which)
    matches = [ModelVersion.id == text, ModelVersion.name == text]
    if text.isdecimal() and len(text) < 10:
        matches.append(ModelVersion.number == int(text))
    found = session.scalars(select(ModelVersion).where(or_(*matches))).all()
    if found:  # a name that looks like a number wins over the number
        return max(found, key=lambda version: (version.id == text, version.name == text))
    try:
        return _aliased(session, text)
    except NotFound:
        raise NotFound(f"There is no model {text!r}.", param=param, code="model_not_found") from None


def _aliased(session: Session, name: str) -> ModelVersion:
    version = session.scalar(
        select(ModelVersion).join(Alias, Alias.version_id == ModelVersion.id).where(Alias.name == name)
    )
    if version is None:
        raise NotFound(f"There is no model {name!r}.", param="model", code="model_not_found")
    return version


def _add(session: Session, **fields: Any) -> ModelVersion:
    name = fields["name"]
    if not name or name == CHAT or session.scalar(select(ModelVersion.id).where(ModelVersion.name == name)) is not None:
        raise InvalidInput(f"The model name {name!r} is taken.", param="name", code="name_taken")
    number = session.scalar(select(func.coalesce(func.max(ModelVersion.number) + 1, 0))) or 0
    version = ModelVersion(id=new_id("ver"), number=number, created_at=now(), **fields)
    session.add(version)
    session.flush()
    return version
