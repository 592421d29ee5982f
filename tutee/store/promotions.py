"""Promotion and rollback: the only two ways in which the live version changes, each one transaction.

The alias moves, the states change and the audit row is written together or not at all. A rollback takes back the newest
promotion that still stands, so repeated rollbacks walk back through the history and then refuse.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from tutee.errors import InvalidInput
from tutee.ids import new_id
from tutee.store import audit
from tutee.store.database import Database
from tutee.store.schema import Alias, Gate, ModelVersion, Promotion, now
from tutee.store.versions import CHAT, find_version


class Promotions:
    """The history of what was live."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def promote(
        self,
        version_id: str,
        actor_id: str | None,
        why: str | None = None,
        override: bool = False,
        gate_id: str | None = None,
    ) -> Promotion:
        """Make a version live.

        Args:
            why: the reason; required with an override, and kept.
            override: promote although the gate did not pass.
            gate_id: the verdict that it rests on; None means the newest one on this version.

        Raises:
            NotFound: no such version.
            InvalidInput: it is live already (already_live), was rejected or revoked or cannot answer
                (version_not_promotable), or its gate did not pass and there is no override with a reason
                (gate_not_passed).
        """
        with self._database.write(lock="versions") as session:
            version = find_version(session, version_id)
            alias = session.get(Alias, CHAT)
            _check_promotable(version, alias)
            gate = _gate(session, version, gate_id)
            against_live = gate is not None and (alias is None or gate.baseline_id in (None, alias.version_id))
            passed = gate is not None and gate.verdict == "pass" and against_live
            if not passed and not (override and why and why.strip()):
                said = "was not judged yet" if gate is None else f"got the verdict {gate.verdict}"
                said = said if gate is None or against_live else "was judged against another version than the live one"
                raise InvalidInput(
                    f"{version.name} {said}. Judge it again, or override with a reason.",
                    param="override" if not override else "reason",
                    code="gate_not_passed",
                )
            return _move(
                session,
                version,
                alias,
                Promotion(
                    stage="promote",
                    gate_id=None if gate is None else gate.id,
                    override=not passed,
                    actor_id=actor_id,
                    why=why,
                ),
            )

    def rollback(self, actor_id: str | None, why: str | None = None) -> Promotion:
        """Point back at the version that was live before the newest promotion that still stands.

        Raises:
            InvalidInput: there is none (code nothing_to_roll_back).
        """
        with self._database.write(lock="versions") as session:
            alias = session.get(Alias, CHAT)
            undo = aliased(Promotion)
            standing = session.scalars(
                select(Promotion)
                .where(Promotion.alias == CHAT, Promotion.stage == "promote")
                .where(Promotion.from_version.is_not(None), ~exists().where(undo.undoes == Promotion.id))
                .order_by(Promotion.seq.desc())
            ).first()
            if alias is None or standing is None or standing.from_version is None:
                raise InvalidInput(
                    "No earlier version was live: there is nothing to roll back to.", code="nothing_to_roll_back"
                )
            version = session.get_one(ModelVersion, standing.from_version)
            if version.state == "revoked":
                raise InvalidInput(
                    f"{version.name}, which was live before, is revoked. Promote another version instead.",
                    code="version_not_promotable",
                )
            step = Promotion(stage="rollback", undoes=standing.id, actor_id=actor_id, why=why, override=False)
            return _move(session, version, alias, step)

    def list(self) -> Sequence[Promotion]:
        """Every move, newest first."""
        with self._database.read() as session:
            return session.scalars(select(Promotion).order_by(Promotion.seq.desc())).all()


def _check_promotable(version: ModelVersion, alias: Alias | None) -> None:
    if alias is not None and alias.version_id == version.id:
        raise InvalidInput(f"{version.name} is live already.", param="version", code="already_live")
    why = None
    if version.state in ("rejected", "revoked"):
        why = f"was {version.state}"
    elif version.card.get("kind") == "reward_model":
        why = "is a reward model, which judges answers and writes none,"
    elif not version.folder:
        why = "came with somebody's archive, without its weights,"
    if why is not None:
        message = f"{version.name} {why} and cannot go live."
        raise InvalidInput(message, param="version", code="version_not_promotable")


def _gate(session: Session, version: ModelVersion, gate_id: str | None) -> Gate | None:
    statement = select(Gate).where(Gate.candidate_id == version.id).order_by(Gate.created_at.desc(), Gate.id.desc())
    if gate_id is None:
        return session.scalars(statement.limit(1)).first()
    gate = session.scalars(statement.where(Gate.id == gate_id)).first()
    if gate is None:
        raise InvalidInput(f"{gate_id!r} is no verdict on {version.name}.", param="gate_id", code="invalid_value")
    return gate


def _move(session: Session, version: ModelVersion, alias: Alias | None, step: Promotion) -> Promotion:
    before = None if alias is None else session.get_one(ModelVersion, alias.version_id)
    if alias is None:
        session.add(Alias(name=CHAT, version_id=version.id, updated_at=now()))
    else:
        alias.version_id, alias.updated_at = version.id, now()
    if before is not None:
        before.state = "archived"
    version.state = "live"
    step.id = new_id("promo")
    step.alias = CHAT
    step.from_version = None if before is None else before.id
    step.to_version = version.id
    step.created_at = now()
    session.add(step)
    session.flush()
    detail = {"from": step.from_version, "to": step.to_version, "override": step.override, "why": step.why}
    sha = None if before is None else before.weights_sha256
    audit.append(
        session, step.stage, version.id, step.actor_id, detail, before_sha=sha, after_sha=version.weights_sha256
    )
    return step
