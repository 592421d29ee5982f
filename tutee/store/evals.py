"""Evals, their runs, and the graded answers of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store.actors import require_actor
from tutee.store.database import Database
from tutee.store.paging import Order, paginate
from tutee.store.records import Page
from tutee.store.schema import Eval, EvalItem, EvalRun, GateEval, now
from tutee.store.webhooks import announce

OPEN = ("queued", "in_progress")
SERVER = "server"


@dataclass(frozen=True, slots=True)
class GradedRow:
    """One answer as it is written down. `status` is pass, fail or error."""

    position: int
    status: str
    item: Mapping[str, Any]
    sample: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]


class Evals:
    """Definitions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        actor_id: str,
        name: str,
        data_source_config: Mapping[str, Any],
        testing_criteria: Sequence[Mapping[str, Any]],
        metadata: Mapping[str, str] | None = None,
    ) -> Eval:
        """A new eval. Raises NotFound: no such actor."""
        with self._database.write() as session:
            require_actor(session, actor_id)
            row = Eval(
                id=new_id("eval"),
                actor_id=actor_id,
                name=name,
                data_source_config=dict(data_source_config),
                testing_criteria=[dict(criterion) for criterion in testing_criteria],
                metadata_=dict(metadata or {}),
            )
            session.add(row)
            return row

    def get(self, id: str, actor_id: str | None = None) -> Eval:
        """The eval. Raises NotFound: no such eval, or somebody else's."""
        with self._database.read() as session:
            return _eval(session, id, actor_id)

    def list(
        self,
        actor_id: str | None,
        limit: int = 20,
        after: str | None = None,
        order: Order = "asc",
        by_update: bool = False,
    ) -> Page[Eval]:
        """Evals by the time that they were made, or last changed."""
        statement = select(Eval)
        if actor_id is not None:
            statement = statement.where(Eval.actor_id == actor_id)
        key = Eval.updated_at if by_update else Eval.created_at
        with self._database.read() as session:
            return paginate(session, statement, key, Eval.id, limit=limit, after=after, order=order)

    def update(
        self, id: str, actor_id: str | None, *, name: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Eval:
        """Change name or metadata. Raises NotFound: no such eval, or somebody else's."""
        with self._database.write() as session:
            row = _eval(session, id, actor_id)
            row.name = row.name if name is None else name
            row.metadata_ = dict(row.metadata_ if metadata is None else metadata)
            row.updated_at = now()
            return row

    def delete(self, id: str, actor_id: str | None) -> None:
        """Forget an eval with its runs. Raises NotFound: no such eval, or somebody else's."""
        with self._database.write() as session:
            _eval(session, id, actor_id)
            session.execute(delete(Eval).where(Eval.id == id))


class EvalRuns:
    """Runs and their output items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        eval_id: str,
        actor_id: str,
        name: str,
        data_source: Mapping[str, Any],
        data_sha: str,
        *,
        model: str | None = None,
        version_id: str | None = None,
        runner: str = SERVER,
        metadata: Mapping[str, str] | None = None,
    ) -> EvalRun:
        """A new run, queued. Raises NotFound: no such eval."""
        with self._database.write() as session:
            _eval(session, eval_id, None)
            row = EvalRun(
                id=new_id("evalrun"),
                eval_id=eval_id,
                actor_id=actor_id,
                runner=runner,
                name=name,
                status="queued",
                model=model,
                version_id=version_id,
                data_source=dict(data_source),
                data_sha=data_sha,
                metadata_=dict(metadata or {}),
                cancel_requested=False,
                passed=0,
                failed=0,
                errored=0,
                criteria={},
                usage={},
            )
            session.add(row)
            return row

    def get(self, id: str, actor_id: str | None = None, eval_id: str | None = None) -> EvalRun:
        """The run. Raises NotFound: no such run of this eval, or somebody else's."""
        with self._database.read() as session:
            return _run(session, id, actor_id, eval_id)

    def list(
        self, eval_id: str, limit: int = 20, after: str | None = None, order: Order = "asc", status: str | None = None
    ) -> Page[EvalRun]:
        """The runs of an eval by time."""
        statement = select(EvalRun).where(EvalRun.eval_id == eval_id)
        if status is not None:
            statement = statement.where(EvalRun.status == status)
        with self._database.read() as session:
            return paginate(session, statement, EvalRun.created_at, EvalRun.id, limit=limit, after=after, order=order)

    def next(self, runner: str = SERVER, but: Collection[str] = ()) -> EvalRun | None:
        """The oldest run of a runner that is not at an end."""
        statement = select(EvalRun).where(EvalRun.runner == runner, EvalRun.status.in_(OPEN))
        with self._database.read() as session:
            return session.scalars(
                statement.where(EvalRun.id.not_in(but)).order_by(EvalRun.created_at, EvalRun.id).limit(1)
            ).first()

    def begin(self, id: str, version_id: str | None) -> None:
        """It is being worked on; what its model's name means now is what it means to the end."""
        with self._database.write() as session:
            row = _run(session, id, None, None)
            if row.status in OPEN:
                row.status = "in_progress"
                row.version_id = row.version_id or version_id

    def request_cancel(self, id: str, actor_id: str | None, eval_id: str | None = None) -> EvalRun:
        """Ask a run to end; a queued one ends at once.

        Raises:
            NotFound: no such run. InvalidInput: it has ended (code `run_ended`).
        """
        with self._database.write() as session:
            row = _run(session, id, actor_id, eval_id)
            if row.status not in OPEN:
                message = f"The run '{id}' has already ended: it is {row.status}."
                raise InvalidInput(message, param="run_id", code="run_ended")
            row.cancel_requested = True
            if row.status == "queued":
                row.status, row.finished_at = "canceled", now()
                announce(session, row.actor_id, "eval.run.canceled", id)
            return row

    def save(self, id: str, rows: Sequence[GradedRow], usage: Mapping[str, Mapping[str, int]]) -> bool:
        """Write answers down, each position once, and count them. Returns False when the run is gone or ended.

        Args:
            usage: tokens that these rows cost, added to the run's.
        """
        with self._database.write(lock=f"eval_run:{id}", durable=False) as session:
            run = session.get(EvalRun, id)
            if run is None or run.status not in OPEN:
                return False
            positions = [row.position for row in rows]
            there = set(
                session.scalars(
                    select(EvalItem.position).where(EvalItem.run_id == id, EvalItem.position.in_(positions))
                )
            )
            for row in rows:
                if row.position not in there:
                    _count(run, row)
                    session.add(_item(id, row))
            total = {model: dict(counts) for model, counts in run.usage.items()}
            for model, counts in usage.items():
                known = total.setdefault(model, {})
                for name, count in counts.items():
                    known[name] = known.get(name, 0) + count
            run.usage = total
            return True

    def finish(self, id: str, status: str, error: Mapping[str, str] | None = None) -> None:
        """The end: completed, failed (with `code` and `message`) or canceled."""
        with self._database.write() as session:
            row = session.get(EvalRun, id)
            if row is not None and row.status in OPEN:
                row.status, row.finished_at = status, now()
                row.error = None if error is None else dict(error)
                announce(session, row.actor_id, f"eval.run.{'succeeded' if status == 'completed' else status}", id)

    def cancelled(self, id: str) -> bool:
        """Whether the run shall end: somebody asked for that, or deleted it."""
        with self._database.read() as session:
            asked = session.execute(select(EvalRun.cancel_requested).where(EvalRun.id == id)).scalar()
            return asked is not False

    def delete(self, id: str, actor_id: str | None, eval_id: str | None = None) -> None:
        """Forget a run with its items. Raises NotFound: no such run, or somebody else's."""
        with self._database.write() as session:
            _run(session, id, actor_id, eval_id)
            session.execute(delete(EvalRun).where(EvalRun.id == id))

    def positions(self, id: str) -> set[int]:
        """Rows of the data that are done."""
        with self._database.read() as session:
            return set(session.scalars(select(EvalItem.position).where(EvalItem.run_id == id)))

    def items(
        self, id: str, limit: int = 20, after: str | None = None, order: Order = "asc", status: str | None = None
    ) -> Page[EvalItem]:
        """The answers of a run in the order of the data."""
        statement = select(EvalItem).where(EvalItem.run_id == id)
        if status is not None:
            statement = statement.where(EvalItem.status == status)
        with self._database.read() as session:
            return paginate(session, statement, EvalItem.position, EvalItem.id, limit=limit, after=after, order=order)

    def item(self, run_id: str, id: str) -> EvalItem:
        """One answer. Raises NotFound."""
        with self._database.read() as session:
            row = session.scalars(select(EvalItem).where(EvalItem.run_id == run_id, EvalItem.id == id)).first()
            if row is None:
                raise NotFound(f"There is no output item {id!r}.", param="output_item_id", code="output_item_not_found")
            return row

    def newest(self, eval_id: str, data_sha: str, version_id: str, status: str | None = None) -> EvalRun | None:
        """The last run of a version on this data, of those with a status if one is given."""
        statement = select(EvalRun).where(
            EvalRun.eval_id == eval_id, EvalRun.data_sha == data_sha, EvalRun.version_id == version_id
        )
        if status is not None:
            statement = statement.where(EvalRun.status == status)
        with self._database.read() as session:
            return session.scalars(statement.order_by(EvalRun.created_at.desc(), EvalRun.id.desc()).limit(1)).first()


class GateEvals:
    """Evals that the gate asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self, eval_id: str, actor_id: str, data_source: Mapping[str, Any], data_sha: str, role: str, margin: float
    ) -> GateEval:
        """Let the gate ask an eval on this data. Raises NotFound: no such eval."""
        with self._database.write() as session:
            _eval(session, eval_id, None)
            row = session.get(GateEval, eval_id) or GateEval(eval_id=eval_id, created_at=now())
            row.actor_id, row.data_source, row.data_sha = actor_id, dict(data_source), data_sha
            row.role, row.margin = role, margin
            session.add(row)
            return row

    def list(self) -> Sequence[tuple[GateEval, Eval]]:
        """All of them with their evals, oldest first."""
        with self._database.read() as session:
            found = session.execute(select(GateEval, Eval).join(Eval).order_by(GateEval.created_at, GateEval.eval_id))
            return [(gate_eval, definition) for gate_eval, definition in found]

    def delete(self, eval_id: str) -> None:
        """The gate asks it no more. Raises NotFound: it does not."""
        with self._database.write() as session:
            row = session.get(GateEval, eval_id)
            if row is None:
                raise NotFound(f"The gate does not ask the eval {eval_id!r}.", param="eval_id", code="eval_not_found")
            session.delete(row)


def _eval(session: Session, id: str, actor_id: str | None) -> Eval:
    row = session.get(Eval, id)
    if row is None or actor_id not in (None, row.actor_id):
        raise NotFound(f"There is no eval {id!r}.", param="eval_id", code="eval_not_found")
    return row


def _run(session: Session, id: str, actor_id: str | None, eval_id: str | None) -> EvalRun:
    row = session.get(EvalRun, id)
    if row is None or actor_id not in (None, row.actor_id) or eval_id not in (None, row.eval_id):
        raise NotFound(f"There is no eval run {id!r}.", param="run_id", code="eval_run_not_found")
    return row


def _count(run: EvalRun, row: GradedRow) -> None:
    run.passed += row.status == "pass"
    run.failed += row.status == "fail"
    run.errored += row.status == "error"
    criteria = {name: list(counts) for name, counts in run.criteria.items()}
    for result in row.results:
        counts = criteria.setdefault(result["name"], [0, 0])
        counts[0 if result["passed"] else 1] += 1
    run.criteria = criteria


def _item(run_id: str, row: GradedRow) -> EvalItem:
    return EvalItem(
        run_id=run_id,
        position=row.position,
        id=new_id("outputitem"),
        status=row.status,
        item=dict(row.item),
        sample=dict(row.sample),
        results=[dict(result) for result in row.results],
    )
