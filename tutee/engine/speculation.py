"""Speculative decoding: several tokens of a sequence in one step, where that pays (Leviathan et al. 2023).

A stream's likely next tokens are guessed (`lookup.py`), computed as if they were true, and sampled after, each row with
the random number of its own position. Guesses are kept as far as they equal what was sampled, so the answer is token
for token the one without guessing, greedy or not; a guess is right with the probability that the model gives it, which
is the most that any scheme with a fixed guess can reach.

Whether it pays depends on the machine, the batch and the text, so it is measured: seconds a step by streams and rows,
with guesses and without, and each sequence's record. A step is guessed when the tokens it should give per second are
more than without. Knows sequences and seconds; no tensors and no blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Literal

from tutee.engine.sequence import Sequence

Mode = Literal["auto", "always", "never"]
MOST_GUESSED = 8
"""Tokens guessed for one sequence in one step."""
LEAST_CHANCE = 0.3
"""A guess ends where it is probably wrong: the whole of it should come true at least this often."""
MARGIN = 1.1
"""What guessing must promise over not guessing."""
_NEWEST = 0.2
"""Weight of the newest step in a mean of seconds."""
_BELIEF_KEPT = 0.995
"""A price that kept us from guessing is believed a little less each time, so that it is asked again."""
Kind = tuple[bool, int, int]


class Speculation:
    """Decides which streams of a step are guessed, and keeps the books.

    Args:
        mode: "auto" guesses where it has paid; "always" wherever there is a guess (tests, measurements); "never".
    """

    def __init__(self, mode: Mode = "auto") -> None:
        self._mode = mode
        self._seconds: dict[Kind, float] = {}
        self._belief: dict[Kind, float] = {}
        self.guessed = 0
        """Tokens guessed so far."""
        self.accepted = 0
        """Guessed tokens that were true."""

    def draft(self, streams: Seq[Sequence]) -> list[tuple[int, ...]]:
        """A guess for each stream (most often an empty one)."""
        nothing: list[tuple[int, ...]] = [()] * len(streams)
        if self._mode == "never":
            return nothing
        drafts = [stream.lookup.guess(stream.tokens, self._length(stream)) for stream in streams]
        if any(drafts) and (self._mode == "always" or self._pays(streams, drafts)):
            return drafts
        return nothing

    def record(self, sequence: Sequence, accepted: int, guessed: int) -> None:
        """What became of one stream's guess."""
        sequence.lookup.record(accepted, guessed)
        self.accepted += accepted
        self.guessed += guessed

    def time(self, streams: int, rows: int, seconds: float) -> None:
        """A step of nothing but streams took so long; it had more rows than streams if tokens were guessed."""
        kind = _kind(streams, rows)
        known = self._seconds.get(kind, seconds)
        weight = max(_NEWEST, 1.0 - self._belief.get(kind, 1.0))
        self._seconds[kind] = known + weight * (seconds - known)
        self._belief[kind] = 1.0

    def _length(self, stream: Sequence) -> int:
        left = stream.max_length - len(stream.tokens) - 1
        if self._mode == "always":
            return min(MOST_GUESSED, left)
        chance = min(stream.lookup.chance, 0.99)
        return min(int(math.log(LEAST_CHANCE) / math.log(chance)), MOST_GUESSED, left)

    def _pays(self, streams: Seq[Sequence], drafts: list[tuple[int, ...]]) -> bool:
        count = len(streams)
        kind = _kind(count, count + sum(map(len, drafts)))
        plain, guessing = self._seconds.get(_kind(count, count)), self._seconds.get(kind)
        if plain is None or guessing is None:
            return plain is not None  # What a guess costs is learned by guessing, what it saves by not guessing first.
        gained = sum(_expected(stream.lookup.chance, len(draft)) for stream, draft in zip(streams, drafts, strict=True))
        if (count + gained) * plain > count * guessing * self._belief[kind] * MARGIN:
            return True
        self._belief[kind] *= _BELIEF_KEPT
        return False


def _kind(streams: int, rows: int) -> Kind:
    """Steps of one kind take about as long: guessing or not, and both sizes to the next power of two."""
    return rows > streams, (streams - 1).bit_length(), (rows - 1).bit_length()


def _expected(chance: float, length: int) -> float:
    """Tokens of a guess that come true, on average: the first with `chance`, both first with its square, and so on."""
    return float(sum(chance**place for place in range(1, length + 1)))
