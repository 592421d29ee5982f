"""How much each owner has been served, so that whoever was served least comes next.

Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models"): every owner with work is
charged for it; who comes back after a pause starts no lower than the least served of those present, so that nobody
saves up idle time. Knows owners and tokens only.
"""

from __future__ import annotations

from collections import Counter

GENERATED_COST = 2.0
"""Price of a generated token; a computed prompt token costs 1, one found in the cache nothing."""


class Shares:
    """The accounts. An owner is any string; None is one like the others."""

    def __init__(self) -> None:
        self._served: dict[str | None, float] = {}
        self._present: Counter[str | None] = Counter()

    def served(self, owner: str | None) -> float:
        """What an owner with work has been charged, comparable between owners at one moment only."""
        return self._served[owner]

    def join(self, owner: str | None) -> None:
        """A request of this owner begins."""
        if not self._present[owner]:
            self._served[owner] = max(self._served.get(owner, 0.0), self._least)
        self._present[owner] += 1

    def leave(self, owner: str | None) -> None:
        """A request of this owner has ended."""
        self._present[owner] -= 1
        if self._present[owner]:
            return
        del self._present[owner]
        # Only a debt must be remembered, and only while there is somebody to whom it is owed.
        least = self._least if self._present else float("inf")
        self._served = {name: sum for name, sum in self._served.items() if name in self._present or sum > least}

    def charge(self, owner: str | None, amount: float) -> None:
        self._served[owner] += amount

    @property
    def _least(self) -> float:
        return min((self._served[owner] for owner in self._present), default=0.0)
