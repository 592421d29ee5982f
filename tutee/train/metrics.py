"""Numbers that a step reports, kept as numerator and denominator so that microbatches add up to the step's value.

Knows no loss and no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class Metrics:
    """Named ratios; adding two adds numerators and denominators."""

    parts: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def ratio(cls, name: str, numerator: Tensor | float, denominator: Tensor | float) -> Metrics:
        return cls({name: (float(numerator), float(denominator))})

    def __add__(self, other: Metrics) -> Metrics:
        out = dict(self.parts)
        for name, (numerator, denominator) in other.parts.items():
            old = out.get(name, (0.0, 0.0))
            out[name] = (old[0] + numerator, old[1] + denominator)
        return Metrics(out)

    def values(self) -> dict[str, float]:
        """The ratios; a name whose denominator is 0 (no such rows in the step) is left out."""
        return {name: n / d for name, (n, d) in self.parts.items() if d != 0}
