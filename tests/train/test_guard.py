"""The guard complains about distance, loops, collapse and unwanted lengths, and about nothing else."""

import pytest

from tutee.train.guard import Drift, Limits, complaints, drift, next_scale

LIMITS = Limits(max_kl=12.0)
BASE = Drift(kl=0.0, words=60, short_share=0.02, distinct_2=0.9, finished=0.2)
CHOSEN = ["word " * n for n in range(20, 61)]


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (Drift(6.0, 45, 0.02, 0.88, 0.8), None),
        (Drift(12.5, 45, 0.02, 0.88, 0.8), "12.5 nats"),
        (Drift(6.0, 45, 0.02, 0.80, 0.8), "repeat themselves"),
        (Drift(6.0, 45, 0.045, 0.88, 0.8), "4% of its answers have fewer than 8 words"),  # the gate would still take it
        (Drift(6.0, 45, 0.06, 0.88, 0.8), "6% of its answers have fewer than 8 words"),
        (Drift(6.0, 30, 0.02, 0.88, 0.8), None),  # half the base's length, but people chose such answers
        (Drift(6.0, 15, 0.02, 0.88, 0.8), "nobody chose such"),
        (Drift(6.0, 95, 0.02, 0.88, 0.8), "nobody chose such"),
    ],
)
def test_complaints(policy: Drift, complaint: str | None) -> None:
    found = complaints(policy, BASE, CHOSEN, LIMITS)
    assert found == [] if complaint is None else complaint in " ".join(found)


def test_without_chosen_answers_only_the_base_says_how_long_is_right() -> None:
    assert complaints(Drift(1.0, 40, 0.0, 0.9, 1.0), BASE, [], LIMITS) == []
    assert complaints(Drift(1.0, 30, 0.0, 0.9, 1.0), BASE, [], LIMITS) != []


@pytest.mark.parametrize(("short", "of", "complains"), [(1, 20, True), (6, 150, True), (3, 6, False), (45, 150, False)])
def test_short_answers_are_right_where_people_clearly_chose_them(short: int, of: int, complains: bool) -> None:
    chosen = ["Yes, it is."] * short + ["word " * 60] * (of - short)
    assert bool(complaints(Drift(6.0, 60, 0.1, 0.9, 0.8), BASE, chosen, LIMITS)) is complains


def test_drift_of_answers() -> None:
    seen = drift(["a b a b", "one two three four five six seven eight nine"], [True, False], [1.0, 3.0])
    assert seen == Drift(kl=2.0, words=6.5, short_share=0.5, distinct_2=pytest.approx((2 / 3 + 1) / 2), finished=0.5)


def test_the_next_scale_comes_from_how_far_the_policy_went() -> None:
    far, near = Drift(43.2, 45, 0.0, 0.9, 0.8), Drift(3.0, 45, 0.0, 0.7, 0.8)
    assert next_scale(1.0, far, LIMITS) == pytest.approx(0.5)  # a quarter of the KL, a little under the limit
    assert next_scale(0.8, near, LIMITS) == pytest.approx(0.8 * 0.85)
    assert next_scale(1.0, Drift(12.5, 45, 0.0, 0.9, 0.8), LIMITS) == pytest.approx(0.93, abs=0.001)
    assert next_scale(1.0, Drift(1e6, 45, 0.0, 0.9, 0.8), LIMITS) == pytest.approx(0.3)
