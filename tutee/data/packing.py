"""Packing: which sequences share a training batch of bounded size.

Knows lengths only, not what they are lengths of.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from tutee.errors import InvalidInput


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Spread items over as few bins as first-fit decreasing finds (at most 11/9 of the optimum + 1; Johnson 1973).

    Args:
        lengths: tokens of each item.
        budget: most tokens in a bin.

    Returns:
        Bins of item indices, each in rising order, the bin with the earliest item first. The same lengths always give
        the same bins.

    Raises:
        InvalidInput: an item is longer than the budget, or a length is negative.
    """
    for index, length in enumerate(lengths):
        if not 0 <= length <= budget:
            raise InvalidInput(
                f"Item {index} has {length} tokens and the budget is {budget}: shorten it or raise the budget.",
                param=f"lengths[{index}]",
                code="does_not_fit",
            )
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((b for b, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            bins.append([])
            room.append(budget)
            place = len(bins) - 1
        insort(bins[place], index)
        room[place] -= lengths[index]
    return sorted(bins)
