"""The hyperparameters that OpenAI's fine-tuning API has for each method, and their ranges: the one list of them.

The server checks requests against it, the worker turns the values into settings of the trainer
(`train/hyperparameters.py`). A number may be `auto`. `x_…` are ours: a strict server would refuse them. Knows what a
value may be, not what it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_POSITIVE = math.nextafter(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Range:
    """A number from `least` to `most`; `whole` when it has no fraction."""

    least: float
    most: float
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Whether `value` is such a number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return self.least <= value <= self.most and (not self.whole or value == int(value))

    def __str__(self) -> str:
        if self.least == LEAST_POSITIVE:
            return f"a number above 0 and at most {self.most:g}"
        return f"a {'whole ' if self.whole else ''}number from {self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Words:
    """One of a few words."""

    allowed: Sequence[str]
    """The first one is meant when nobody says."""

    def holds(self, value: object) -> bool:
        """Whether `value` is one of them."""
        return value in self.allowed

    def __str__(self) -> str:
        return f"one of {', '.join(self.allowed)}"


Values = Range | Words

EPOCHS = Range(1, 50, whole=True)
BATCH = Range(1, 256, whole=True)
MULTIPLIER = Range(LEAST_POSITIVE, 1e6)
SUPERVISED: Mapping[str, Values] = {"n_epochs": EPOCHS, "batch_size": BATCH, "learning_rate_multiplier": MULTIPLIER}

ALGORITHMS = ("grpo", "rloo", "ppo")

HYPERPARAMETERS: Mapping[str, Mapping[str, Values]] = {
    "supervised": SUPERVISED,
    "dpo": {**SUPERVISED, "beta": Range(LEAST_POSITIVE, 2.0)},
    "reinforcement": {
        **SUPERVISED,
        "reasoning_effort": Words(("default", "low", "medium", "high")),
        "compute_multiplier": Range(1e-5, 10.0),
        "eval_interval": Range(1, 100_000, whole=True),
        "eval_samples": Range(1, 64, whole=True),
        "x_algorithm": Words(ALGORITHMS),
    },
    "reward_model": SUPERVISED,
}
"""By the method's name in the API; `reward_model` is ours."""


def unsaid(method: str) -> dict[str, str]:
    """What each hyperparameter of the method is as long as nobody has decided it."""
    return {name: values.allowed[0] if isinstance(values, Words) else "auto"
            for name, values in HYPERPARAMETERS.get(method, {}).items()}  # fmt: skip
