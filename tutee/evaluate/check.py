"""One question of the gate and its answer. Knows no evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["pass", "fail", "insufficient"]


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate. `blocking` says whether the answer decides or only warns."""

    name: str
    verdict: Outcome
    reason: str
    value: float | None = None
    blocking: bool = True
    numbers: Mapping[str, Any] = field(default_factory=dict)
