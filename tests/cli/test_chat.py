"""`tutee chat`: what a person may type."""

from __future__ import annotations

import io

import pytest

from tutee.cli.chat import which_is_better


@pytest.mark.parametrize(("typed", "meant"), [("A", "a"), ("b", "b"), ("Tie", "tie"), ("no\nboth_bad", "both_bad")])
def test_the_better_answer_is_named_in_small_or_capital_letters(
    monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{typed}\n"))
    assert which_is_better() == meant
