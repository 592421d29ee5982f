"""Health lines and tripwires, on made-up histories."""

import pytest

from tutee.errors import InvalidInput
from tutee.train.health import Limits, alarms, reinforcement_health, supervised_health

STEADY = {"reward": 0.5, "length": 20.0, "entropy": 2.0, "distinct_2": 0.9, "distinct_answers": 1.0, "kl": 1.0}


def history(last: dict[str, float], steps: int = 8) -> list[dict[str, float]]:
    return [*[dict(STEADY) for _ in range(steps)], *[STEADY | last for _ in range(3)]]


@pytest.mark.row(33)
@pytest.mark.parametrize(
    ("name", "fine", "warns", "stops", "words"),
    [
        ("kl", 7.0, 9.0, 16.0, "nats an answer"),
        ("length", 22.0, 26.0, 31.0, "times as long"),
        ("length", 17.0, 15.0, 11.0, "times as long"),
        ("distinct_2", 0.85, 0.8, 0.6, "repeat themselves"),
        ("distinct_answers", 0.95, 0.85, 0.7, "distinct answers"),
        ("entropy", 1.5, 1.3, 0.9, "less uncertain"),
        ("sampler_gap", 0.03, 0.1, 0.5, "Sampler and trainer disagree"),
    ],
)
def test_tripwires_warn_and_then_stop(name: str, fine: float, warns: float, stops: float, words: str) -> None:
    limits = Limits()
    assert alarms(history({name: fine}), limits) == []
    [warning] = alarms(history({name: warns}), limits)
    assert not warning.stop
    assert words in warning.message
    assert words in reinforcement_health(history({name: warns}), limits)
    assert alarms(history({name: stops}), limits)[0].stop


@pytest.mark.row(33)
def test_a_planted_hackable_judge_trips_before_much_is_lost() -> None:
    """The reward rises all the time; the watched judge rises, then falls, as in Gao et al. 2022."""
    limits = Limits(watched="gold")
    steps: list[dict[str, float]] = []
    for step in range(120):
        distance = step / 30
        steps.append(STEADY | {"reward": distance, "reward/gold": distance * (1.5 - 0.5 * distance)})
        if any(alarm.stop for alarm in alarms(steps, limits)):
            break
    best = max(values["reward/gold"] for values in steps)
    assert 45 < len(steps) < 75
    assert steps[-1]["reward/gold"] > 0.7 * best
    assert "gold" in reinforcement_health(steps, limits)


def test_a_wire_can_be_switched_off() -> None:
    assert alarms(history({"length": 99.0}), Limits(longer=None)) == []
    with pytest.raises(InvalidInput):
        Limits(kl=(15.0, 8.0))


@pytest.mark.row(19)
@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"skipped_steps": 2.0}, "2 updates were not finite"),
        ({"reward_failures": 3.0}, "The reward failed 3 times"),
        ({"zero_variance_groups": 0.62}, "All rewards are equal in 62% of groups: no signal"),
        ({"clip_fraction": 0.4}, "40% of tokens are clipped"),
        ({"kl": -0.8}, "below 0 is impossible"),
        ({"reward": 0.9}, "The mean reward went from 0.500 to 0.900."),
        ({}, "The reward stays."),
    ],
)
def test_one_plain_sentence(last: dict[str, float], words: str) -> None:
    assert words in reinforcement_health(history(last), Limits())


def test_a_young_run_says_nothing() -> None:
    assert reinforcement_health([dict(STEADY)], Limits()) == ""


def test_the_sentence_of_a_run_over_fixed_data() -> None:
    step = {"loss": 1.0, "grad_norm": 1.0, "skipped_steps": 0.0}
    assert supervised_health([step | {"grad_norm": float("inf")}]).startswith("This step was not finite")
    falling = [step | {"loss": 3.0 - i / 10} for i in range(25)]
    assert supervised_health(falling) == "The loss went from 2.55 to 1.05."
    assert supervised_health([dict(step) for _ in range(25)]) == "The loss is not falling."
    undecided = [dict(step) for _ in range(9)]  # steps of ties alone are right or wrong about nothing
    assert "in 50% of the last pairs" in supervised_health([*undecided, step | {"reward_accuracy": 0.5}])
