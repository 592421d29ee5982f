"""`make checklist`: the 34 things an RLHF trainer gets wrong, each with the tests that hold it here.

A test says which rows it holds with `@pytest.mark.row(7)` (several numbers, several marks: all count). This script
collects the tests that carry a row, runs them, and prints row → tests → passed, failed or missing. It ends with
status 1 when any row has no test or a test of it failed. A skipped test holds nothing.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Generic, TypeVar

import pytest
from rich.console import Console
from rich.table import Table

Row = TypeVar("Row", int, str)

ROWS = {
    1: "The log-prob at t scores token t+1; one temperature in sampler, policy, old policy and reference",
    2: "Truncated sampling (top-k, top-p) is refused in RL, or both sides are renormalised",
    3: "Cached, batched, paged and prefix-shared decoding equal the full forward pass",
    4: "Positions come from lengths; padding and neighbours change nothing",
    5: "Masks come from lengths, so a pad token that is also the end token still counts",
    6: "Answers end at the first stop token, which is kept; nothing after it has loss, KL or reward",
    7: "The score lands on the last real token; rewards sum to score − β ΣKL",
    8: "The missing-end penalty knows every configured stop token",
    9: "Per-token KL: k1 in the reward, k3 as a loss with its true gradient; the reported KL is the one used",
    10: "KL is exactly 0 at step 0, and an impossible KL raises an alarm",
    11: "No dropout anywhere: the same sequence scores the same twice, and the first ratio is 1",
    12: "GAE equals its O(T²) definition; 0 after an end, V at a cut; padding leaks nothing",
    13: "Returns use unwhitened advantages; whitening uses statistics of the whole step",
    14: "Value clipping is optional, symmetric, and off it is plain squared error",
    15: "The PPO surrogate is the minimum on both signs, asymmetric clips included; clip fraction is exact",
    16: "Ratios are float32 and clamped; a non-finite gradient skips the step and is counted",
    17: "Loss aggregation is named; denominators are global over microbatches and ranks",
    18: "Groups without variance get advantage 0; groups survive shuffling and splitting",
    19: "On-policy loss is about 0 and says so; reward, gradient norm, entropy and silent groups are shown",
    20: "Packed equals unpacked; the last token of a segment has no target; neighbours cannot be seen",
    21: "Chunked log-prob and entropy equal the plain ones, tied head or not; an adapter on the head is refused",
    22: "Tokens in are tokens out: sampled ids are trained, never text encoded again",
    23: "Only the assistant's tokens are learned; one template trains and serves, and its hash is kept",
    24: "The reward model is Bradley–Terry at the last real token; planted preferences are found, padding is not",
    25: "The critic begins as the reward model, has its own rate, and explains a fixed policy's returns",
    26: "AdamW by hand equals ours; clipping after accumulation; vectors are never decayed",
    27: "The adaptive KL coefficient reaches its target; a KL budget stops the run",
    28: "DPO begins at ln 2 exactly; its optimum is π_ref·exp(r/β)/Z; answers are never cut",
    29: "Mixing pretraining or supervised loss in keeps what the model knew",
    30: "New weights reach the sampler at once and whole; cached prefixes of old weights are not used",
    31: "The adapter's change reaches the sampler, scaled once; the reference is the adapter switched off",
    32: "A run that was killed goes on bit for bit",
    33: "Reward hacking trips an alarm before the true reward falls",
    34: "Every algorithm reaches the known optimum of a tiny problem; its expected gradient is the exact one",
}


class Checklist(Generic[Row]):
    """A pytest plugin: keeps the tests that carry a row of `rows` and remembers how each of them ended.

    Args:
        marker: the mark whose arguments are the rows.
        rows: what must hold, by row.
    """

    def __init__(self, marker: str, rows: Mapping[Row, str]) -> None:
        self.marker = marker
        self.rows = rows
        self.rows_of: dict[str, set[Row]] = {}
        self.outcome: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            rows = {row for mark in item.iter_markers(self.marker) for row in mark.args}
            if unknown := rows - set(self.rows):
                raise pytest.UsageError(f"{item.nodeid} is marked with rows that do not exist: {sorted(unknown)}")
            if rows:
                self.rows_of[item.nodeid] = rows
        items[:] = [item for item in items if item.nodeid in self.rows_of]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self.outcome.get(report.nodeid, "passed")
        if before == "passed":
            self.outcome[report.nodeid] = report.outcome

    def verdict(self, row: Row) -> tuple[str, dict[str, str]]:
        """(passed, failed or missing; test without its parameters → how its worst case ended)."""
        tests: dict[str, set[str]] = defaultdict(set)
        for nodeid, rows in self.rows_of.items():
            if row in rows:
                tests[nodeid.split("[")[0]].add(self.outcome.get(nodeid, "not run"))
        worst = {
            name: next(o for o in ("failed", "not run", "passed", "skipped") if o in outcomes)
            for name, outcomes in tests.items()
        }
        if any(outcome in ("failed", "not run") for outcome in worst.values()):
            return "failed", worst
        return ("passed" if "passed" in worst.values() else "missing"), worst


def show(checklist: Checklist[Row], title: str) -> bool:
    """Print the table; whether every row has a test and every test passed."""
    colour = {"passed": "green", "failed": "red", "missing": "yellow", "skipped": "yellow", "not run": "red"}
    table = Table(title=title, show_lines=True)
    for name in ("row", "what must hold", "tests", ""):
        table.add_column(name, overflow="fold")
    verdicts = {row: checklist.verdict(row) for row in checklist.rows}
    for row, text in checklist.rows.items():
        verdict, tests = verdicts[row]
        names = "\n".join(f"[{colour[outcome]}]{name.removeprefix('tests/')}[/]" for name, outcome in tests.items())
        table.add_row(str(row), text, names, f"[{colour[verdict]}]{verdict}[/]")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    wrong = [f"{row} {verdict}" for row, (verdict, _) in verdicts.items() if verdict != "passed"]
    console.print(f"All {len(checklist.rows)} rows hold." if not wrong else "Not held: " + ", ".join(wrong))
    return not wrong


def run(checklist: Checklist[Row], title: str, folder: str) -> int:
    """Run the tests of `folder` that carry a row, print the table; the exit status."""
    status = pytest.main([folder, "-q", "--no-header", *sys.argv[1:]], plugins=[checklist])
    held = show(checklist, title)
    return 0 if held and status == pytest.ExitCode.OK else 1


if __name__ == "__main__":
    sys.exit(run(Checklist("row", ROWS), "Correctness of post-training", "tests"))
