"""Words, very short answers and loops are counted as people would."""

import pytest

from tutee.data.wording import SHORT_WORDS, distinct_2, says, short_count, short_share


def test_an_answer_is_short_below_eight_words_however_they_are_spaced() -> None:
    texts = ["one two three", "word " * 20, "a\nb  c d e f g h", "a b c d e f g", ""]
    assert SHORT_WORDS == 8
    assert short_count(texts) == 3
    assert short_share(texts) == 3 / 5
    assert short_share([]) == 0.0


def test_distinct_pairs_fall_in_a_loop() -> None:
    assert distinct_2("the cat sat on the mat") == 1.0
    assert distinct_2("again and " * 20) < 0.1
    assert distinct_2("") == 1.0


@pytest.mark.parametrize(
    ("text", "phrase", "said"),
    [
        ("It is paris.", "Paris", True),
        ("Parisians live there", "Paris", False),
        ("The sum is 12.", "12", True),
        ("The sum is 12.5", "12", False),
        ("The sum is 3.12", "12", False),
        ("in front of it, (so it is)", "front of it, (so", True),
    ],
)
def test_what_is_said_is_said_in_whole_words(text: str, phrase: str, said: bool) -> None:
    assert says(text, phrase) is said
