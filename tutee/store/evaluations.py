"""What a version scored, and what the gate said of it. Rows are added, never changed: the newest verdict counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import audit, blobs
from tutee.store.database import Database
from tutee.store.schema import Evaluation, Gate, now
from tutee.store.versions import find_version

VERDICTS = ("pass", "fail", "insufficient")
ROLES = ("block", "warn", "info")


class Evaluations:
    """Scores with their intervals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        version_id: str,
        baseline_id: str | None,
        suite: str,
        n: int,
        estimate: float | None,
        ci_lo: float | None,
        ci_hi: float | None,
        method: str,
        role: str = "info",
        detail: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Record a score.

        Args:
            n: number of items behind it.
            estimate, ci_lo, ci_hi: point and interval; None (or not finite) when there is none.
            method: how the interval was made.
            role: what the gate does with it: block, warn or info.

        Raises:
            NotFound: no such version or baseline.
            InvalidInput: an unknown role.
        """
        if role not in ROLES:
            raise InvalidInput(f"'role' must be one of {', '.join(ROLES)}.", param="role", code="invalid_value")
        with self._database.write() as session:
            for id in (version_id, baseline_id):
                if id is not None:
                    find_version(session, id)
            row = Evaluation(
                id=new_id("eval"),
                version_id=version_id,
                baseline_id=baseline_id,
                suite=suite,
                n=n,
                estimate=_finite(estimate),
                ci_lo=_finite(ci_lo),
                ci_hi=_finite(ci_hi),
                method=method,
                role=role,
                detail=dict(detail or {}),
                created_at=now(),
            )
            session.add(row)
            return row

    def for_versions(self, ids: Iterable[str]) -> dict[str, list[Evaluation]]:
        """Version id → its scores, oldest first, for many versions in one query."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, list[Evaluation]] = {id: [] for id in wanted}
        with self._database.read() as session:
            for batch in blobs.batched(wanted):
                statement = select(Evaluation).where(Evaluation.version_id.in_(batch))
                for row in session.scalars(statement.order_by(Evaluation.created_at, Evaluation.id)):
                    found[row.version_id].append(row)
        return found

    def list(self, version_id: str) -> Sequence[Evaluation]:
        """The version's scores, oldest first."""
        return self.for_versions([version_id])[version_id]


class Gates:
    """Verdicts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        candidate_id: str,
        baseline_id: str | None,
        verdict: str,
        reasons: Sequence[str],
        *,
        checks: Sequence[Mapping[str, Any]] = (),
        e_value: float | None = None,
        policy_sha: str | None = None,
    ) -> Gate:
        """Record a verdict.

        Args:
            checks: one {name, verdict, reason, value} a check.

        Raises:
            NotFound: no such candidate or baseline.
            InvalidInput: an unknown verdict.
        """
        if verdict not in VERDICTS:
            raise InvalidInput(
                f"'verdict' must be one of {', '.join(VERDICTS)}.", param="verdict", code="invalid_value"
            )
        with self._database.write() as session:
            for id in (candidate_id, baseline_id):
                if id is not None:
                    find_version(session, id)
            row = Gate(
                id=new_id("gate"),
                candidate_id=candidate_id,
                baseline_id=baseline_id,
                policy_sha=policy_sha,
                verdict=verdict,
                reasons=list(reasons),
                checks=[dict(check) for check in checks],
                e_value=_finite(e_value),
                created_at=now(),
            )
            session.add(row)
            session.flush()
            audit.append(session, "gate", row.id, None, {"candidate": candidate_id, "verdict": verdict})
            return row

    def get(self, id: str) -> Gate:
        """The verdict.

        Raises:
            NotFound: no such verdict.
        """
        with self._database.read() as session:
            row = session.get(Gate, id)
            if row is None:
                raise NotFound(f"There is no gate {id!r}.", param="gate_id")
            return row

    def latest(self, version_id: str) -> Gate | None:
        """The newest verdict on this version."""
        return self.latest_for([version_id]).get(version_id)

    def latest_for(self, ids: Iterable[str]) -> dict[str, Gate]:
        """Version id → its newest verdict, for many versions in one query; those never judged are left out."""
        found: dict[str, Gate] = {}
        with self._database.read() as session:
            for batch in blobs.batched(dict.fromkeys(ids)):
                statement = select(Gate).where(Gate.candidate_id.in_(batch)).order_by(Gate.created_at, Gate.id)
                found.update({row.candidate_id: row for row in session.scalars(statement)})
        return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
