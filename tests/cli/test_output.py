"""What reaches the terminal: everybody's words as they are, errors in a line."""

from __future__ import annotations

import errno

import pytest

from tutee.cli.output import errors_in_one_line, out, show_table, styled
from tutee.errors import InvalidInput

NASTY = "[/] [bold]x[/b] messages[0] [EMAIL] [link=http://a]y \\"


def test_words_that_look_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("Feedback [/]", ["comment"], [(NASTY,), (styled("[bold]{}[/]", NASTY),)])
    out.print(styled("[red]error[/]: {}", NASTY))
    out.print(NASTY)
    said = capsys.readouterr().out
    assert said.count(NASTY) == 4
    assert "Feedback [/]" in said


def test_nobody_moves_the_cursor_of_who_reads(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("Feedback", ["comment"], [("a\x1b[2Jb\x07\u202f\ud800é 👩‍💻",)])
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "a\ufffd[2Jb\ufffd\u202f\ufffdé 👩‍💻" in said


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error, words in (
        (
            InvalidInput(f"No such thing: {NASTY}.", param="messages[2].role"),
            f"(messages[2].role): No such thing: {NASTY}.",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/home/x/[/]"), "(/home/x/[/]): No space left on device."),
    ):
        with pytest.raises(SystemExit) as ended, errors_in_one_line():
            raise error
        assert ended.value.code == 1
        said = capsys.readouterr().err
        assert said == f"error {words}\n"
