"""Rewards: sums of terms, and reward functions that raise, hang, die or return nonsense."""

import math
import threading
import time
from pathlib import Path

import pytest

from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.train.environments import Question, QuestionList
from tutee.train.rewards import (
    Answer,
    EndTerm,
    FormatTerm,
    FunctionReward,
    LengthTerm,
    ModelReward,
    Rewards,
    TaskReward,
)

FUNCTIONS = """
import os, time
calls = []

def grade(sample, item):
    print("judging")  # must not reach the pipe
    return float(sample["output_text"] == item["answer"]) + sample["output_tokens"] / 100

def hangs_once(sample, item):
    if not os.path.exists(item["flag"]):
        open(item["flag"], "w").close()
        time.sleep(3600)
    return 1.0

def raises(sample, item):
    raise KeyError("nothing here")

def dies(sample, item):
    os._exit(3)

def nan(sample, item):
    return float("nan")

def text(sample, item):
    return "very good"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "my_rewards.py"
    path.write_text(FUNCTIONS)
    return path


def answer(text: str, tokens: int = 3, finished: bool = True, **item: object) -> Answer:
    question = Question((Message("user", "2+2?"),), {"answer": "4", **item})
    return Answer(question, (1, 2), tuple(range(tokens)), text, finished)


def test_a_function_in_a_file_judges_sample_and_item(file: Path) -> None:
    reward = FunctionReward(str(file))
    assert reward.score([answer("4"), answer("5", tokens=10)]) == pytest.approx([1.03, 0.1])
    reward.close()


def test_a_function_of_a_module_has_a_name() -> None:
    assert FunctionReward("tests.train.test_rewards:longer_is_better").score([answer("abc")]) == [3.0]


def longer_is_better(sample, item):  # type: ignore[no-untyped-def]
    assert item["messages"] == [{"role": "user", "content": "2+2?"}]
    return len(sample["output_text"])


def test_one_that_hangs_is_ended_and_asked_again(file: Path, tmp_path: Path) -> None:
    # Time enough for an answer that does not hang, on a machine that does other work too.
    reward = FunctionReward(f"{file}:hangs_once", timeout_s=5.0)
    rewards = Rewards([(1.0, reward)])
    started = time.monotonic()
    [judged] = rewards.score([answer("4", flag=str(tmp_path / "flag"))])
    assert judged.total == 1.0
    assert rewards.failures == 1
    assert "more than 5 s" in rewards.last_failure
    assert time.monotonic() - started < 600  # it did not sleep to its end
    reward.close()


@pytest.mark.parametrize(
    ("function", "why"),
    [("raises", "KeyError"), ("dies", "ended its process"), ("nan", "not a finite number"), ("text", "very good")],
)
def test_one_that_never_gives_a_number_gives_the_answer_up(file: Path, function: str, why: str) -> None:
    reward = FunctionReward(f"{file}:{function}")
    rewards = Rewards([(1.0, reward), (1.0, EndTerm())])
    [judged] = rewards.score([answer("4")])
    assert judged.total is None
    assert judged.terms == {"end": 0.0}
    assert rewards.failures == 2
    assert why in rewards.last_failure
    reward.close()


@pytest.mark.parametrize("name", ["no_such_module:grade", "{file}:absent", "/nowhere/at/all.py"])
def test_a_function_that_is_not_there_is_refused_at_once(file: Path, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        FunctionReward(name.format(file=file))
    assert caught.value.code == "invalid_reward"


def test_a_callable_is_watched_too() -> None:
    assert FunctionReward(lambda sample, item: True).score([answer("4")]) == [1.0]
    let_go = threading.Event()
    hangs = FunctionReward(lambda sample, item: let_go.wait(), timeout_s=0.1)
    assert math.isnan(hangs.score([answer("4")])[0])
    assert "more than 0.1 s" in hangs.last_failure
    let_go.set()


def test_terms_are_weighted_and_reported_one_by_one() -> None:
    environment = QuestionList([answer("").question])
    rewards = Rewards(
        [
            (1.0, TaskReward(environment)),
            (0.5, FormatTerm(r"\d+")),
            (2.0, LengthTerm(free=4, most=8)),
            (1.0, EndTerm()),
            (0.1, ModelReward(lambda sequences: [float(len(s)) for s in sequences], centre=1.0, spread=2.0)),
        ]
    )
    right, long, wrong = rewards.score([answer(" 4 "), answer("4", tokens=6), answer("four", 99, finished=False)])
    assert right.terms == {"task": 1.0, "format": 1.0, "length": 0.0, "end": 0.0, "model": 2.0}
    assert right.total == pytest.approx(1 + 0.5 + 0.2)
    assert long.terms["length"] == -0.5
    assert wrong.total == pytest.approx(-2 - 1 + 0.1 * 50)


@pytest.mark.parametrize(
    "make", [lambda: Rewards([]), lambda: Rewards([(1.0, EndTerm()), (2.0, EndTerm())]), lambda: FormatTerm("(")]
)
def test_settings_that_cannot_work_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInput):
        make()
