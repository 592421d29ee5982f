"""Environments: files of questions, their order, how answers are compared, and reasoning-gym."""

import json
from pathlib import Path

import pytest

from tutee.errors import InvalidInput, Unavailable
from tutee.train.environments import QuestionList, ReasoningGym, matches, read_questions


def write(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_a_file_of_questions(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prompt": "2+2?", "answer": "4", "level": 1},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}], "answer": "2"},
    )
    environment = read_questions(path, seed=3)
    first_epoch = [environment.question(i) for i in range(2)]
    assert {q.item["answer"] for q in first_epoch} == {"4", "2"}
    four = next(q for q in first_epoch if q.item["answer"] == "4")
    assert four.messages[0].content == "2+2?"
    assert four.item["level"] == 1
    assert environment.score(four, " 4\n") == 1.0
    assert environment.score(four, "5") == 0.0


@pytest.mark.row(32)
def test_the_order_is_a_function_of_seed_and_index_alone(tmp_path: Path) -> None:
    path = write(tmp_path, *({"prompt": str(i), "answer": "x"} for i in range(20)))
    walked = [read_questions(path, seed=1).question(i) for i in range(50)]
    again = read_questions(path, seed=1)
    assert [again.question(i) for i in reversed(range(50))] == walked[::-1]
    epochs = [walked[:20], walked[20:40]]
    assert all(len({q.messages[0].content for q in epoch}) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ("{", "line 2"),
        ({"answer": "4"}, "line 2"),
        ({"prompt": "", "answer": "4"}, "line 2.prompt"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2.messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "line 2.messages"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_questions(write(tmp_path, {"prompt": "a", "answer": "b"}, row))
    assert caught.value.param == where


def test_nothing_and_answers_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_questions(write(tmp_path))
    assert caught.value.code == "empty_dataset"
    path = write(tmp_path, {"prompt": "a"})
    with pytest.raises(InvalidInput, match="match to 'none'"):
        read_questions(path)
    assert isinstance(read_questions(path, match="none"), QuestionList)


@pytest.mark.parametrize(
    ("text", "answer", "how", "same"),
    [
        (" 42 ", "42", "exact", True),
        ("It is 42.", "42", "exact", False),
        ("It is PARIS.", "Paris", "contains", True),
        ("2 and 2 make 4", "4", "number", True),
        ("1,234.50", "1234.5", "number", True),
        ("-3", "3", "number", False),
        ("no digits", "3", "number", False),
    ],
)
def test_how_answers_are_compared(text: str, answer: str, how: str, same: bool) -> None:
    assert matches(text, answer, how) is same  # type: ignore[arg-type]


def test_reasoning_gym_asks_and_judges() -> None:
    try:
        tasks = ReasoningGym("basic_arithmetic", seed=5, instruction="Answer with a number only.\n")
    except Unavailable:
        pytest.skip("reasoning-gym is not installed")
    question = tasks.question(123456)
    assert question == ReasoningGym("basic_arithmetic", seed=5, instruction="Answer with a number only.\n").question(
        123456
    )
    assert question.messages[0].content.startswith("Answer with a number only.\n")
    assert tasks.score(question, f" {question.item['answer']}\n") == 1.0
    assert tasks.score(question, "banana") < 0.5
    tagged = ReasoningGym("basic_arithmetic", seed=5, extract=lambda text: text.partition("=")[2].strip() or None)
    assert tagged.score(tagged.question(1), f"so = {tagged.question(1).item['answer']}") == 1.0
    with pytest.raises(InvalidInput):
        ReasoningGym("no_such_task")
    with pytest.raises(InvalidInput):
        ReasoningGym("basic_arithmetic", settings={"no_such_setting": 1})
