"""Every check of the gate answers rightly, and the verdict is what the checks say together."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.homes import open_home
from tutee import intervals
from tutee.evaluate.gate import CHECKS, Evidence, GatePolicy, Score, Verdict, decide, judge
from tutee.evaluate.votes import Vote, Winner

GOOD = (
    Score("drift.kl", 48, 6.5, 5.0, 8.0),
    Score(
        "drift.length_ratio", 48, 0.9, 0.9, 0.9, detail={"median_words": 60.0, "chosen_q05": 20.0, "chosen_q95": 80.0}
    ),
    Score("drift.short_share", 96, 0.0, 0.0, 0.04, detail={"live": 0.0, "chosen": 0.0}),
    Score("drift.distinct_2", 48, 1.02, 1.02, 1.02),
    Score("capability.lost", 40, 0.02, 0.0, 0.13),
    Score("sycophancy.flip_increase", 30, 0.0, -0.1, 0.1),
    Score("preference.accuracy", 22, 0.7, 0.5, 0.85),
    Score("corrections.likelihood", 4, 0.3, 0.1, 0.5),
)


def short_answers(count: int, of: int = 96, **already: float) -> Score:
    """`count` answers under 8 words; `live` and `chosen` are shares that were there before."""
    return Score("drift.short_share", of, *intervals.share(count, of), detail={"live": 0.0, "chosen": 0.0, **already})


def ballots(wins: int, losses: int, people: int = 6, words: tuple[int, int] = (60, 60)) -> list[Vote]:
    winners: list[Winner] = ["candidate"] * wins + ["live"] * losses
    order = np.random.default_rng(0).permutation(len(winners))
    return [Vote(f"person {i % people}", winners[k], *words) for i, k in enumerate(order)]


def verdict(votes: list[Vote], policy: GatePolicy | None = None, **changes: Any) -> Verdict:
    """The verdict on good scores, some of them changed: `drift_kl=40.0` or a whole Score, None leaves one out."""
    scores = {score.suite: score for score in GOOD}
    for key, value in changes.items():
        suite = key.replace("_", ".", 1)
        if value is None:
            del scores[suite]
        else:
            scores[suite] = value if isinstance(value, Score) else replace(scores[suite], estimate=value)
    return decide(Evidence(votes, scores), policy)


def outcome(result: Verdict, name: str) -> tuple[str, bool]:
    check = next(check for check in result.checks if check.name == name)
    return check.verdict, check.blocking


def test_good_scores_and_enough_votes_pass() -> None:
    result = verdict(ballots(32, 8))
    assert result.verdict == "pass"
    assert result.e_value > 100
    assert any("32 of 40 chose it" in reason for reason in result.reasons)


def test_without_votes_it_says_how_many_to_collect() -> None:
    result = verdict([])
    assert result.verdict == "insufficient"
    assert "Collect about 71 more blind votes" in result.reasons[0]


def test_people_who_prefer_the_live_version_fail_it() -> None:
    assert verdict(ballots(8, 32)).verdict == "fail"


def test_no_difference_after_very_many_votes_fails_it() -> None:
    result = verdict(ballots(300, 300))
    assert result.verdict == "fail"
    assert "No difference" in result.reasons[0]


def test_votes_that_are_even_so_far_ask_for_more_and_promise_nothing() -> None:
    result = verdict(ballots(2, 20))
    assert result.verdict in ("fail", "insufficient")
    result = verdict(ballots(4, 12))
    assert result.verdict == "insufficient"
    assert "do not favour" in result.reasons[0]


def test_one_fan_among_three_is_not_enough() -> None:
    votes = [Vote("fan", "candidate", 60, 60)] * 30 + ballots(3, 3, people=2)
    result = verdict(votes)
    assert result.verdict == "insufficient"
    assert outcome(result, "no single voter decides") == ("insufficient", True)
    assert outcome(verdict(ballots(32, 8, people=2)), "no single voter decides") == ("pass", False)


def test_shorter_answers_are_right_when_people_chose_shorter_ones() -> None:
    def length(median: float, chosen: bool) -> Score:
        detail = {"median_words": median} | ({"chosen_q05": 20.0, "chosen_q95": 80.0} if chosen else {})
        return Score("drift.length_ratio", 48, median / 70, 0, 0, detail=detail)

    votes = ballots(32, 8)
    assert verdict(votes, drift_length_ratio=length(31, chosen=True)).verdict == "pass"
    assert verdict(votes, drift_length_ratio=length(31, chosen=False)).verdict == "fail"
    assert verdict(votes, drift_length_ratio=length(11, chosen=True)).verdict == "fail"
    assert verdict(votes, drift_length_ratio=length(130, chosen=True)).verdict == "fail"


def test_votes_that_only_follow_length_do_not_pass_a_length_that_nobody_chose() -> None:
    rng = np.random.default_rng(1)
    votes = []
    for i in range(80):
        ours = int(rng.integers(20, 100))
        # Short answers win whoever wrote them, and the candidate's are mostly short.
        votes.append(Vote(f"p{i % 6}", "candidate" if ours < 70 else "live", ours, 70))
    longer = Score("drift.length_ratio", 48, 1.8, 0, 0, detail={"median_words": 130.0})
    check = next(c for c in verdict(votes, drift_length_ratio=longer).checks if c.name == "votes at equal length")
    assert check.blocking
    assert check.value is not None
    # The same votes only warn when that length is what people chose.
    assert outcome(verdict(votes), "votes at equal length")[1] is False


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"drift_kl": 40.0}, "distance to live"),
        ({"drift_short_share": short_answers(9)}, "no collapse"),
        ({"drift_distinct_2": 0.6}, "no loops"),
        ({"drift_short_share": short_answers(6), "drift_distinct_2": 0.6}, "no loops"),
        ({"capability_lost": Score("capability.lost", 40, 0.3, 0.18, 0.45)}, "capability"),
        ({"sycophancy_flip_increase": Score("sycophancy.flip_increase", 30, 0.4, 0.2, 0.6)}, "sycophancy"),
        ({"preference_accuracy": Score("preference.accuracy", 30, 0.2, 0.1, 0.37)}, "held-out comparisons"),
    ],
)
def test_each_regression_fails_a_candidate_that_people_like(change: dict[str, Any], name: str) -> None:
    result = verdict(ballots(60, 10), **change)
    assert result.verdict == "fail"
    assert outcome(result, name) == ("fail", True)
    assert next(check.reason for check in result.checks if check.name == name) in result.reasons


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"drift_kl": 14.0}, "distance to live"),
        ({"drift_short_share": short_answers(4)}, "no collapse"),
        ({"capability_lost": Score("capability.lost", 47, 0.128, 0.06, 0.25)}, "capability"),
        ({"sycophancy_flip_increase": Score("sycophancy.flip_increase", 20, 0.1, -0.1, 0.3)}, "sycophancy"),
        ({"corrections_likelihood": Score("corrections.likelihood", 9, -0.2, -0.3, -0.1)}, "held-out corrections"),
    ],
)
def test_doubts_warn_and_do_not_block(change: dict[str, Any], name: str) -> None:
    result = verdict(ballots(32, 8), **change)
    assert result.verdict == "pass"
    assert outcome(result, name) == ("fail", False)
    assert next(check.reason for check in result.checks if check.name == name) in result.reasons


def test_two_short_answers_of_forty_do_not_fail_a_candidate() -> None:
    """As happened to one that was liked and gave no short answer in 256 when it was measured."""
    assert verdict(ballots(32, 8), drift_short_share=short_answers(2, of=40)).verdict == "pass"


def test_short_answers_that_people_chose_or_live_gives_are_no_collapse() -> None:
    for usual in ({"chosen": 0.1}, {"live": 0.1}):
        result = verdict(ballots(32, 8), drift_short_share=short_answers(9, **usual))
        assert outcome(result, "no collapse") == ("pass", True)


@pytest.mark.parametrize(
    "missing", [score.suite.replace(".", "_", 1) for score in GOOD if score.suite.startswith(("drift", "cap", "syc"))]
)
def test_what_was_not_measured_is_not_passed(missing: str) -> None:
    result = verdict(ballots(32, 8), **{missing: None})
    assert result.verdict == "insufficient"
    assert any("Not measured" in reason for reason in result.reasons)


@pytest.mark.parametrize(
    "suite", [score.suite for score in GOOD if score.suite not in ("preference.accuracy", "corrections.likelihood")]
)
def test_what_came_out_as_no_number_is_not_passed(suite: str) -> None:
    assert verdict(ballots(32, 8), None, **{suite.replace(".", "_", 1): math.nan}).verdict == "insufficient"


def test_votes_of_one_person_are_said_to_be_so() -> None:
    result = verdict(ballots(32, 8, people=1))
    assert outcome(result, "no single voter decides") == ("pass", False)
    assert any("Fewer than three people" in check.reason for check in result.checks)


def test_nothing_but_ties_asks_for_votes() -> None:
    ties: list[Winner] = ["tie", "both_bad"]
    result = verdict([Vote(f"person {i % 5}", ties[i % 2]) for i in range(700)])
    assert (result.verdict, result.e_value) == ("insufficient", 1.0)
    assert "none yet, 700 ties" in result.reasons[0]


def test_few_or_no_held_out_rows_do_not_block() -> None:
    result = verdict(ballots(32, 8), preference_accuracy=None, corrections_likelihood=None)
    assert result.verdict == "pass"
    assert outcome(result, "held-out comparisons") == ("insufficient", False)


def test_junk_candidates_are_not_promoted() -> None:
    """Random labels make a version that is no better: watched vote by vote, at most 1 in 20 ever passes."""
    rng, passed = np.random.default_rng(7), 0
    for _ in range(100):
        votes = [
            Vote(f"p{i % 6}", "candidate" if win else "live", 60, 60) for i, win in enumerate(rng.random(150) < 0.5)
        ]
        passed += any(verdict(votes[:n]).verdict == "pass" for n in range(6, 151, 6))
    assert passed <= 5


def test_a_real_improvement_passes_within_sixty_votes() -> None:
    rng, needed = np.random.default_rng(8), []
    for _ in range(60):
        votes = [
            Vote(f"p{i % 6}", "candidate" if win else "live", 60, 60) for i, win in enumerate(rng.random(150) < 0.75)
        ]
        needed.append(next((n for n in range(6, 151, 3) if verdict(votes[:n]).verdict == "pass"), 999))
    assert np.median(needed) <= 45


def test_the_policy_is_one_place_and_has_a_name() -> None:
    strict = GatePolicy(e_value=1000.0)
    assert verdict(ballots(22, 8), strict).verdict == "insufficient"
    assert strict.sha256() != GatePolicy().sha256() == GatePolicy().sha256()


def test_json_for_the_page_has_every_check() -> None:
    page = verdict(ballots(32, 8)).to_dict()
    assert [check["name"] for check in page["checks"]] == [check.name for check in verdict([]).checks]
    assert len(page["checks"]) == len(CHECKS)
    assert {"name", "verdict", "reason", "value", "blocking", "numbers"} == set(page["checks"][0])


def test_judging_loads_nothing_heavy() -> None:
    program = "import sys, tutee.evaluate.gate; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_verdict_belongs_to_the_version_that_was_live(tmp_path: Path) -> None:
    with open_home(tmp_path) as home:
        versions = home.store.versions
        first, second = (
            versions.add(name, "adapter", weights_sha256=name[0] * 64, folder=f"versions/{name}")
            for name in ("1st", "2nd")
        )
        before = judge(home.store, second.id)
        assert judge(home.store, second.id).id == before.id
        home.store.promotions.promote(first.id, home.person(), "a test", override=True)
        after = judge(home.store, second.id)
        assert after.checks == before.checks, "nothing was measured against either"
        assert (before.baseline_id, after.baseline_id) == (home.version_id, first.id)
