"""The sequences that wait for a place: lanes of one priority and owner, each in order of arrival.

Knows whose turn it is: better priority first, then the owner who was served least, then who came first. Does not know
whether there is room.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from tutee.engine.sequence import Sequence
from tutee.engine.shares import Shares

Lane = tuple[int, str | None]


class Waiting:
    """Iterates in order of priority and owner, for those who want to see all."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lanes: dict[Lane, list[Sequence]] = {}

    def __len__(self) -> int:
        return sum(map(len, tuple(self._lanes.values())))

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for lane in tuple(self._lanes.values()) for sequence in tuple(lane))

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._lanes.get(_lane(sequence), ())

    def add(self, sequence: Sequence) -> None:
        """One that was preempted gets its old place in its lane again."""
        insort(self._lanes.setdefault(_lane(sequence), []), sequence, key=_arrival)

    def remove(self, sequence: Sequence) -> None:
        lane = self._lanes[_lane(sequence)]
        lane.remove(sequence)
        if not lane:
            del self._lanes[_lane(sequence)]

    def in_turn(self) -> Iterator[Sequence]:
        """Each in its turn; what is charged to an owner meanwhile counts for the next turn. A sequence that was handed
        out may be removed."""
        lanes = [(lane, iter(tuple(sequences))) for lane, sequences in self._lanes.items()]
        heads = {lane: (next(rest), rest) for lane, rest in lanes}

        def turn(lane: Lane) -> tuple[int, float, int]:
            priority, owner = lane
            return priority, self._shares.served(owner), heads[lane][0].arrival

        while heads:
            lane = min(heads, key=turn)
            sequence, rest = heads.pop(lane)
            following = next(rest, None)
            if following is not None:
                heads[lane] = following, rest
            yield sequence


def _lane(sequence: Sequence) -> Lane:
    return sequence.request.priority, sequence.request.owner


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
