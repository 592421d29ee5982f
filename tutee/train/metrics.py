"""Numbers that a step reports, kept as numerator and denominator so that microbatches add up to the step's value.

Knows no loss and no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class Metrics:
    """Named ratios; adding two adds numerators and denominators.

    Tensors stay on their device until somebody asks (`settled`), so that a step need not wait for each.
    """

    parts: dict[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)

    @classmethod
    def ratio(cls, name: str, numerator: Tensor | float, denominator: Tensor | float) -> Metrics:
        return cls({name: (_kept(numerator), _kept(denominator))})

    def __add__(self, other: Metrics) -> Metrics:
        out = dict(self.parts)
        for name, (numerator, denominator) in other.parts.items():
            old = out.get(name, (0.0, 0.0))
            out[name] = (old[0] + numerator, old[1] + denominator)
        return Metrics(out)

    def settled(self) -> Metrics:
        """The same with numbers that are here, fetched at once."""
        waiting = [number for part in self.parts.values() for number in part if isinstance(number, Tensor)]
        if not waiting:
            return self
        fetched = iter(torch.stack(waiting).tolist())
        here = {
            name: [next(fetched) if isinstance(number, Tensor) else number for number in part]
            for name, part in self.parts.items()
        }
        return Metrics({name: (numerator, denominator) for name, (numerator, denominator) in here.items()})

    def total(self, name: str) -> float:
        """The numerator: what microbatches with one denominator add up to."""
        return float(self.parts[name][0])

    def values(self) -> dict[str, float]:
        """The ratios; a name whose denominator is 0 (no such rows in the step) is left out."""
        known = {name: (float(n), float(d)) for name, (n, d) in self.settled().parts.items()}
        return {name: n / d for name, (n, d) in known.items() if d != 0}


def _kept(number: Tensor | float) -> Tensor | float:
    return number.detach().double() if isinstance(number, Tensor) else float(number)
