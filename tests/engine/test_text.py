from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutee.engine.text import TextStream
from tutee.model.tokenizer import Detokenizer, Tokenizer


def stream(tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The pieces that a text comes out in, byte by byte, and whether a stop string ended it."""
    out = TextStream(Detokenizer(tokenizer), stop)
    pieces = []
    for token in tokenizer.encode(text):
        pieces.append(out.push(token))
        if out.stopped:
            break
    return [*pieces, out.finish()], out.stopped


def test_code_points_are_never_split(tokenizer: Tokenizer) -> None:
    text = "naïve 日本語 🤖 👩‍👩‍👧 é ﷽"
    pieces, _ = stream(tokenizer, text)
    assert "".join(pieces) == text
    assert len(pieces) > len(text)
    assert "\ufffd" not in "".join(pieces)
    assert all(len(piece) <= 1 for piece in pieces)


def test_a_broken_code_point_at_the_end_becomes_a_replacement_character(tokenizer: Tokenizer) -> None:
    out = TextStream(Detokenizer(tokenizer))
    robot = tokenizer.encode("🤖")
    assert [out.push(token) for token in robot[:3]] == ["", "", ""]
    assert out.finish() == "\ufffd"


def test_text_is_held_back_only_while_it_may_begin_a_stop_string(tokenizer: Tokenizer) -> None:
    out = TextStream(Detokenizer(tokenizer), ("abc",))
    pieces = [out.push(token) for token in tokenizer.encode("xababd")]
    assert pieces == ["x", "", "", "ab", "", "abd"]
    assert not out.stopped


def test_the_stop_string_and_what_follows_are_left_out(tokenizer: Tokenizer) -> None:
    assert stream(tokenizer, "one STOP two", ("STOP",)) == (["o", "n", "e", " ", "", "", "", "", ""], True)


def test_held_text_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    pieces, stopped = stream(tokenizer, "one ST", ("STOP",))
    assert "".join(pieces) == "one ST"
    assert not stopped


def test_a_stop_string_is_not_looked_for_until_told(tokenizer: Tokenizer) -> None:
    out = TextStream(Detokenizer(tokenizer), ("b",))
    pieces = [out.push(token, look_for_stop=i > 1) for i, token in enumerate(tokenizer.encode("abcb"))]
    assert "".join(pieces) == "abc"
    assert out.stopped


@pytest.mark.parametrize("stop", [("日本",), ("本語", "日"), ("🤖",)])
def test_stop_strings_may_be_any_characters(tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    pieces, stopped = stream(tokenizer, "これは日本語🤖です", stop)
    assert stopped
    assert "".join(pieces) == ("これは日本語" if stop == ("🤖",) else "これは")


@given(text=st.text("ab🤖é", max_size=30), stop=st.lists(st.text("ab🤖é", min_size=1, max_size=5), max_size=3))
def test_streaming_finds_what_searching_the_whole_text_finds(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    pieces, stopped = stream(tokenizer, text, tuple(stop))
    # The stop string that is complete first ends the answer; of those complete at once, the one that begins first.
    found = [(text.index(s) + len(s), text.index(s)) for s in stop if s in text]
    first_end = min((end for end, _ in found), default=None)
    wanted = text if first_end is None else text[: min(begin for end, begin in found if end == first_end)]
    assert stopped == (first_end is not None)
    assert "".join(pieces) == wanted
