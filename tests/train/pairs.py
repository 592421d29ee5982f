"""A pair and a single with numbers that are easy to work by hand."""

from __future__ import annotations

from tutee.train.batch import Example, Group


def example(*mask: float, reference: tuple[float, ...] | None = None) -> Example:
    """Tokens 10, 11, 12 … with this mask."""
    return Example(tuple(range(10, 10 + len(mask))), mask, reference)


PAIR = Group.pair(
    example(0, 0, 1, 1, reference=(0, 0, -1.0, -2.0)),
    example(0, 1, reference=(0, -1.5)),
    weight=2.0,
)
SINGLE = Group((example(0, 1, 1, 1),))
