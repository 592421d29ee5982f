"""The gate's check of an eval: clearly worse fails, no worse passes, unclear asks for rows, not run yet says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.test_gate import GOOD, ballots
from tutee.evaluate.eval_check import EvalEvidence, eval_evidence, passes_eval
from tutee.evaluate.gate import Evidence, decide
from tutee.store import Store
from tutee.store.evals import GradedRow

CHECK = {"type": "string_check", "name": "c", "input": "a", "reference": "a", "operation": "eq"}


def evidence(candidate: tuple[int, int] | None, live: tuple[int, int] | None, **more: Any) -> EvalEvidence:
    return EvalEvidence(
        "eval-1", "capitals", **{"blocking": True, "margin": 0.05, **more}, candidate=candidate, live=live
    )


@pytest.mark.parametrize(
    ("candidate", "live", "verdict"),
    [
        ((0, 10), (6, 10), "fail"),
        ((9, 10), (4, 10), "pass"),
        ((5, 10), (5, 10), "pass"),
        ((96, 100), (100, 100), "pass"),  # within the margin
        ((4, 10), (5, 10), "insufficient"),
        ((400, 1000), (500, 1000), "fail"),
        ((0, 0), (0, 0), "insufficient"),
    ],
)
def test_the_verdict_follows_the_two_pass_rates(
    candidate: tuple[int, int], live: tuple[int, int], verdict: str
) -> None:
    check = passes_eval(evidence(candidate, live))
    assert check.verdict == verdict
    assert f"{candidate[0]} of {candidate[1]}" in check.reason


def test_a_margin_forgives_and_a_warning_does_not_block() -> None:
    assert passes_eval(evidence((50, 100), (80, 100), margin=0.4)).verdict == "pass"
    assert not passes_eval(evidence((50, 100), (80, 100), blocking=False)).blocking


def test_an_eval_decides_beside_the_other_checks() -> None:
    scores = {score.suite: score for score in GOOD}
    votes = ballots(32, 8)
    worse, better = evidence((0, 10), (9, 10)), evidence((9, 10), (5, 10))
    waiting = evidence(None, None, waiting="The eval has not run yet.")
    assert decide(Evidence(votes, scores)).verdict == "pass"
    assert decide(Evidence(votes, scores, [better])).verdict == "pass"
    assert decide(Evidence(votes, scores, [better, worse])).verdict == "fail"
    assert decide(Evidence(votes, scores, [better, waiting])).verdict == "insufficient"
    assert decide(Evidence(votes, scores, [evidence((0, 10), (9, 10), blocking=False)])).verdict == "pass"
    reasons = decide(Evidence(votes, scores, [worse])).reasons
    assert reasons == ["It is worse on the eval 'capitals': it passes 0 of 10 rows, the live version 9 of 10."]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'tutee.db'}", tmp_path) as opened:
        yield opened


def test_the_newest_completed_runs_on_the_same_data_are_what_counts(store: Store) -> None:
    actor = store.actors.get_or_create("ada")
    live = store.versions.ensure_base("tiny", "w" * 64, "models/tiny")
    candidate = store.versions.add("v1", "adapter", weights_sha256="x" * 64, folder="versions/v1", parent_id=live.id)
    asked = store.evals.add(actor.id, "capitals", {"type": "custom", "item_schema": {}}, [CHECK])
    named = store.gate_evals.set(asked.id, actor.id, {"type": "completions"}, "sha", "block", 0.1)

    def run(version_id: str, statuses: list[str], sha: str = "sha", end: str = "completed") -> None:
        row = store.eval_runs.add(asked.id, actor.id, "", {}, sha, model="m", version_id=version_id)
        graded = [GradedRow(i, status, {}, {}, []) for i, status in enumerate(statuses)]
        assert store.eval_runs.save(row.id, graded, {})
        store.eval_runs.finish(row.id, end)

    def found() -> EvalEvidence:
        return eval_evidence(store, (named, asked), candidate.id, live.id)

    assert "has not run yet" in found().waiting
    run(live.id, ["pass", "fail"])
    assert found().candidate is None
    run(candidate.id, ["pass"], sha="other data")
    run(candidate.id, ["pass"], end="failed")
    assert "of the candidate is failed" in found().waiting
    run(candidate.id, ["pass", "pass"])
    run(candidate.id, ["error", "fail", "pass"])
    assert (found().candidate, found().live, found().margin) == ((1, 3), (1, 2), 0.1)
