"""The made-up team's taste is what its docstring says, and the package does not know it."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def team() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulated_team", ROOT / "examples" / "simulated_team.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulated_team"] = module
    spec.loader.exec_module(module)
    return module


def test_no_topic_is_both_labelled_and_measured(team: ModuleType) -> None:
    measure, vote, label = team.split_prompts()
    assert (len(measure), len(vote)) == (64, 64)
    assert len(label) >= 170
    topics = [{prompt.topic for prompt in part} for part in (measure, vote, label)]
    assert not topics[0] & topics[1]
    assert not (topics[0] | topics[1]) & topics[2]
    assert any(prompt.wants_list for prompt in measure)


def test_gold_rewards_the_style_and_nothing_short_or_off_topic(team: ModuleType) -> None:
    prompt = next(p for p in team.split_prompts()[2] if p.text == "Why is sleep important?")
    good = "Sleep is important since the body repairs muscle and the mind sorts the memories of the whole day before."
    score = lambda text, finished=True: team.HouseStyle.gold(prompt, team.Answer(text, finished))  # noqa: E731
    assert score(good) == 1.0
    assert score("Sure! " + good) < 1.0
    assert score(good, finished=False) < 1.0
    assert score(good + " Any questions?") < 1.0
    assert score("- " + good) < 1.0
    assert score(good * 6) < 1.0
    assert score("") == 0.0
    assert score(good.replace("Sleep", "It")) == 0.0


def test_a_correction_scores_higher_than_a_chatty_answer(team: ModuleType) -> None:
    text = "Sure! Here are some thoughts.\n1. **Rest**: it helps.\n2. Water.\n3. A walk - daily.\nWould you like more?"
    answer = team.Answer(text, True)
    for prompt in team.split_prompts()[2]:
        corrected = team.Answer(team.correct(prompt, answer), True)
        assert team.HouseStyle.gold(prompt, corrected) > team.HouseStyle.gold(prompt, answer)


def test_members_agree_with_themselves_in_about_three_of_four_cases(team: ModuleType) -> None:
    dice = random.Random(0)
    member = team.Member("ada", dice, has_taste=True)
    pairs = [(dice.betavariate(2, 3), dice.betavariate(2, 3)) for _ in range(4000)]
    same = sum(member.prefers_first(*pair) == member.prefers_first(*pair) for pair in pairs) / len(pairs)
    assert 0.72 < same < 0.92


def test_the_package_cannot_know_the_taste() -> None:
    for path in (ROOT / "tutee").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "simulated_team" not in text
        assert "HouseStyle" not in text
