"""Words, very short answers and loops are counted as people would."""

from tutee.data.wording import SHORT_WORDS, distinct_2, short_count, short_share


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
