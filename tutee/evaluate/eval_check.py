"""The gate's check of an eval that somebody named: the same rows, asked of the candidate and of the live version.

Reads runs that are completed; who runs them is the server's business (`serve/evals/gate.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tutee.evaluate.check import Check
from tutee.intervals import share_difference
from tutee.store import Store
from tutee.store.schema import Eval, GateEval


@dataclass(frozen=True, slots=True)
class EvalEvidence:
    """An eval that somebody named as a check: both versions on the same rows.

    Args:
        margin: how much of the pass rate the candidate may lose.
        candidate, live: (answers that passed, rows); None while there is no completed run.
        waiting: why there is none, as a sentence.
    """

    eval_id: str
    name: str
    blocking: bool
    margin: float
    candidate: tuple[int, int] | None = None
    live: tuple[int, int] | None = None
    waiting: str = ""


def eval_evidence(store: Store, named: tuple[GateEval, Eval], candidate_id: str, live_id: str) -> EvalEvidence:
    """What the completed runs of both versions say."""
    asked, definition = named
    found: list[tuple[int, int]] = []
    waiting = ""
    for who, version_id in (("candidate", candidate_id), ("live version", live_id)):
        run = store.eval_runs.newest(asked.eval_id, asked.data_sha, version_id, "completed")
        if run is not None:
            found.append((run.passed, run.passed + run.failed + run.errored))
            continue
        last = store.eval_runs.newest(asked.eval_id, asked.data_sha, version_id)
        state = "has not run yet" if last is None else f"is {last.status}"
        waiting = f"The eval {(definition.name or definition.id)!r} of the {who} {state}; the server runs it."
    both = len(found) == 2
    return EvalEvidence(
        asked.eval_id,
        definition.name or definition.id,
        asked.role == "block",
        asked.margin,
        found[0] if both else None,
        found[1] if both else None,
        waiting,
    )


def passes_eval(evidence: EvalEvidence) -> Check:
    """On the rows of an eval: does it pass about as many as the live version does?

    Fails a candidate that is clearly worse (Newcombe's interval below zero) by more than the margin; worse but not
    clearly so is too few rows. An answer that could not be graded has not passed.
    """
    name, blocking = f"eval: {evidence.name}", evidence.blocking
    if evidence.candidate is None or evidence.live is None:
        return Check(name, "insufficient", evidence.waiting, None, blocking, {"eval_id": evidence.eval_id})
    (hits, n), (hits_live, n_live) = evidence.candidate, evidence.live
    rise, lo, hi = share_difference(hits, n, hits_live, n_live)
    numbers = {
        "eval_id": evidence.eval_id,
        "candidate": {"passed": hits, "rows": n},
        "live": {"passed": hits_live, "rows": n_live},
        "ci_lo": lo,
        "ci_hi": hi,
        "margin": evidence.margin,
    }
    so_far = f"it passes {hits} of {n} rows, the live version {hits_live} of {n_live}"
    if n and n_live and rise >= -evidence.margin:
        return Check(name, "pass", f"On the eval {evidence.name!r} {so_far}.", rise, blocking, numbers)
    if hi < 0:
        return Check(name, "fail", f"It is worse on the eval {evidence.name!r}: {so_far}.", rise, blocking, numbers)
    reason = f"It may be worse on the eval {evidence.name!r}, but there are too few rows to say: {so_far}."
    return Check(name, "insufficient", reason, rise, blocking, numbers)
