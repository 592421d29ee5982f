"""Prompt lookup: guess that a sequence goes on as it did the last time its newest tokens occurred (Saxena 2023).

Knows one sequence's tokens and how often its guesses were right. Costs no model: answers that quote their prompt, edit
it or repeat themselves are guessed well, others hardly ever.
"""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 3
"""Tokens that must occur again before a guess is made."""
_PRIOR_RIGHT, _PRIOR_TRIED = 1.2, 2.0
_KEPT_PER_GUESS = 0.9
_KEPT_PER_STEP = 0.98
"""Old verdicts fade, without guesses too: a sequence that was hard to guess is tried again some fifty tokens later."""


class Lookup:
    """Where every run of `WIDTH` tokens of one sequence last went on, and the record of its guesses."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}
        self._indexed = WIDTH
        self._right = self._tried = 0.0

    @property
    def chance(self) -> float:
        """Estimated probability that a guessed token is right, given that those before it were."""
        return (self._right + _PRIOR_RIGHT) / (self._tried + _PRIOR_TRIED)

    def guess(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` tokens that may follow `tokens`; none when its end is new.

        `tokens` must be what it was at the last call, with more at the end.
        """
        for at in range(self._indexed, len(tokens)):
            self._next[tuple(tokens[at - WIDTH : at])] = at
        self._indexed = max(self._indexed, len(tokens))
        at = self._next.get(tuple(tokens[-WIDTH:]), len(tokens))
        guess: list[int] = []
        for place in range(at, at + most if at < len(tokens) else at):
            # Past the end it goes on with itself: what repeats with a short period is guessed in full length.
            guess.append(tokens[place] if place < len(tokens) else guess[place - len(tokens)])
        return tuple(guess)

    def record(self, right: int, guessed: int) -> None:
        """Of `guessed` tokens the first `right` were true (0 of 0 when none was guessed)."""
        kept = _KEPT_PER_GUESS if guessed else _KEPT_PER_STEP
        # Only the first wrong token was tried; nothing is known of those behind it.
        self._right = self._right * kept + right
        self._tried = self._tried * kept + min(right + 1, guessed)


class Unguessed(Lookup):
    """Of a sequence that has a grammar: what that allows after a guess is not known yet, so nothing is guessed."""

    def guess(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Nothing."""
        return ()
