"""What rows teach: who teaches the head, and what answers are long enough to be called the best."""

import numpy as np

from tutee.conversation import Message
from tutee.data.rows import Origin, PairRow, Reply, Row, UnpairedRow
from tutee.model.pretrained import Pretrained
from tutee.train.lessons import ENOUGH_CHOSEN, read_lessons


def liked(*lengths: int) -> list[Row]:
    asked = (Message("user", "Well?"),)
    origin = Origin("thumb", ("f",), "ada", "c", "q")
    return [UnpairedRow(asked, Reply("word " * n, f"g{i}", "v0"), True, origin) for i, n in enumerate(lengths)]


def test_an_answer_shorter_than_almost_all_chosen_ones_may_not_win(model: Pretrained) -> None:
    lessons = read_lessons(model, liked(3, *range(20, 60)))
    assert lessons.long_enough(["one", "word " * 19, "word " * 21, "word " * 500]).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_where_people_choose_short_answers_short_ones_may_win(model: Pretrained) -> None:
    assert read_lessons(model, liked(*[2] * 5, *range(20, 60))).long_enough(["one", "one two"]).tolist() == [
        False,
        True,
    ]


def test_a_few_chosen_answers_say_nothing_of_length(model: Pretrained) -> None:
    assert read_lessons(model, liked(*[50] * (ENOUGH_CHOSEN - 1))).long_enough(["one"]).tolist() == [True]
    assert read_lessons(model, liked(*[50] * ENOUGH_CHOSEN)).long_enough(["one"]).tolist() == [False]


def test_a_correction_is_trained_on_and_teaches_the_head_beside_the_votes(model: Pretrained) -> None:
    asked, good, bad = (Message("user", "Well?"),), Reply("A good answer."), Reply("bad", "g", "v0")
    rows = [
        PairRow(asked, good, bad, Origin(source, (source,), "ada", "c", "q"))
        for source in ("compare", "thumb", "edit", "edit", "demo")
    ]
    lessons = read_lessons(model, rows)
    labels = lessons.labels
    assert (len(labels.chosen), len(labels.rejected)) == (2, 2)
    np.testing.assert_array_equal(labels.written, labels.chosen[[0] * 3])
    np.testing.assert_array_equal(labels.replaced, labels.rejected[[0] * 3])
    assert len(lessons.pairs) == 3
