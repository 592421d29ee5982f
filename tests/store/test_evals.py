"""Evals and runs: whose they are, each row counted once, and what ends a run."""

from __future__ import annotations

import pytest

from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.evals import GradedRow
from tutee.store.schema import Eval, EvalRun

CRITERION = {"type": "string_check", "name": "is", "input": "a", "reference": "a", "operation": "eq"}


def make(store: Store, who: str = "ada") -> tuple[Eval, EvalRun]:
    actor = store.actors.get_or_create(who)
    made = store.evals.add(actor.id, "capitals", {"type": "custom", "item_schema": {}}, [CRITERION], {"a": "b"})
    return made, store.eval_runs.add(made.id, actor.id, "first", {"type": "jsonl"}, "sha", model="m")


def row(position: int, status: str = "pass") -> GradedRow:
    return GradedRow(position, status, {"x": 1}, {}, [{"name": "is", "passed": status == "pass"}])


def test_a_row_is_counted_once_whatever_is_saved_twice(store: Store) -> None:
    _, run = make(store)
    store.eval_runs.begin(run.id, None)
    assert store.eval_runs.save(run.id, [row(0), row(1, "fail")], {"m": {"total_tokens": 5}})
    assert store.eval_runs.save(run.id, [row(1), row(2, "error")], {"m": {"total_tokens": 2}, "j": {"total_tokens": 1}})
    now = store.eval_runs.get(run.id)
    assert (now.passed, now.failed, now.errored, now.criteria) == (1, 1, 1, {"is": [1, 2]})
    assert now.usage == {"m": {"total_tokens": 7}, "j": {"total_tokens": 1}}
    assert store.eval_runs.positions(run.id) == {0, 1, 2}
    items = list(store.eval_runs.items(run.id, limit=2))
    assert [item.position for item in items] == [0, 1]
    assert [item.position for item in store.eval_runs.items(run.id, after=items[1].id)] == [2]
    assert [item.position for item in store.eval_runs.items(run.id, status="error")] == [2]
    assert store.eval_runs.item(run.id, items[0].id).status == "pass"


def test_what_ended_takes_no_more_rows(store: Store) -> None:
    _, run = make(store)
    store.eval_runs.begin(run.id, None)
    store.eval_runs.finish(run.id, "failed", {"code": "c", "message": "m"})
    store.eval_runs.finish(run.id, "completed")
    now = store.eval_runs.get(run.id)
    assert (now.status, now.error) == ("failed", {"code": "c", "message": "m"})
    assert not store.eval_runs.save(run.id, [row(0)], {})
    with pytest.raises(InvalidInput, match="failed"):
        store.eval_runs.request_cancel(run.id, None)


def test_open_runs_are_found_oldest_first_and_cancelled(store: Store) -> None:
    made, first = make(store)
    second = store.eval_runs.add(made.id, made.actor_id, "second", {}, "sha")
    other = store.eval_runs.add(made.id, made.actor_id, "third", {}, "sha", runner="ftjob-1")
    store.eval_runs.begin(first.id, None)
    found = store.eval_runs.next()
    assert found is not None
    assert found.id == first.id
    assert (following := store.eval_runs.next(but={first.id})) is not None
    assert following.id == second.id
    assert (theirs := store.eval_runs.next("ftjob-1")) is not None
    assert theirs.id == other.id
    assert store.eval_runs.request_cancel(second.id, made.actor_id).status == "canceled"
    assert store.eval_runs.request_cancel(first.id, made.actor_id).status == "in_progress"
    assert store.eval_runs.cancelled(first.id)
    assert store.eval_runs.next(but={first.id}) is None
    store.eval_runs.delete(first.id, made.actor_id)
    assert store.eval_runs.cancelled(first.id)


def test_a_foreign_eval_is_not_there(store: Store) -> None:
    made, run = make(store)
    stranger = store.actors.get_or_create("eve").id
    for attempt in (
        lambda: store.evals.get(made.id, stranger),
        lambda: store.evals.update(made.id, stranger, name="x"),
        lambda: store.evals.delete(made.id, stranger),
        lambda: store.eval_runs.get(run.id, stranger),
        lambda: store.eval_runs.get(run.id, made.actor_id, "eval-other"),
        lambda: store.eval_runs.request_cancel(run.id, stranger),
        lambda: store.eval_runs.delete(run.id, stranger),
        lambda: store.eval_runs.item(run.id, "outputitem-none"),
        lambda: store.gate_evals.delete(made.id),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert list(store.evals.list(stranger)) == []


def test_deleting_an_eval_takes_everything_with_it(store: Store) -> None:
    made, run = make(store)
    store.eval_runs.save(run.id, [row(0)], {})
    store.gate_evals.set(made.id, made.actor_id, {"type": "completions"}, "sha", "block", 0.1)
    changed = store.gate_evals.set(made.id, made.actor_id, {"type": "responses"}, "sha2", "warn", 0.2)
    assert [(asked.role, asked.margin) for asked, _ in store.gate_evals.list()] == [(changed.role, 0.2)]
    store.evals.delete(made.id, made.actor_id)
    assert store.gate_evals.list() == []
    with pytest.raises(NotFound):
        store.eval_runs.get(run.id)
    assert store.eval_runs.positions(run.id) == set()
