"""OpenAI's hyperparameters, and the settings of ours that they mean.

`n_epochs`, `batch_size`, `learning_rate_multiplier` and DPO's `beta`, each a number or `auto`. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutee.errors import InvalidInput
from tutee.train.loop import LoopConfig
from tutee.train.options import require
from tutee.train.task import Chosen, Method, choose

OURS = {"n_epochs": "epochs", "batch_size": "batch_size", "beta": "beta"}
"""Hyperparameters that are settings of ours under another name; `learning_rate_multiplier` is a factor."""
KNOWN: dict[str, tuple[str, ...]] = {"supervised": ("n_epochs", "batch_size", "learning_rate_multiplier")}
KNOWN["dpo"] = (*KNOWN["supervised"], "beta")


@dataclass(frozen=True, slots=True)
class Resolved:
    """`settings` for `methods.run`, and what every `auto` came to be, as the API reports it."""

    settings: Mapping[str, Any]
    hyperparameters: Mapping[str, int | float]


def resolve(api_name: str, method: Method, raw: Mapping[str, Any], settings: Mapping[str, Any], rows: int) -> Resolved:
    """Join OpenAI's hyperparameters with settings of ours.

    Args:
        api_name: the method as the API calls it, `supervised` or `dpo`.

    Raises:
        InvalidInput: an unknown key, one that the method does not have, a value out of range (`param` is
            `method.dpo.hyperparameters.beta` and the like), or the same thing said twice.
    """
    where = f"method.{api_name}.hyperparameters"
    known = KNOWN[api_name]
    given: dict[str, int | float] = {}
    for key, value in raw.items():
        require(key in known, f"{where}.{key}", f"'{key}' is not a hyperparameter of {api_name}.")
        if value != "auto" and value is not None:
            given[key] = _checked(key, value, f"{where}.{key}")
    meant: dict[str, Any] = {OURS[key]: value for key, value in given.items() if key in OURS}
    if "learning_rate_multiplier" in given:
        base = method.defaults(rows, settings)["learning_rate"]
        meant["learning_rate"] = base * given["learning_rate_multiplier"]
    twice = next((name for name in meant if name in settings), None)
    if twice is not None:
        raise InvalidInput(f"'{twice}' is given as a hyperparameter and as a setting.", param=f"settings.{twice}")
    joined = {**meant, **settings}
    chosen = choose(method, joined, rows)
    return Resolved(joined, {key: _reported(key, chosen, given) for key in known})


def _reported(key: str, chosen: Chosen, given: Mapping[str, int | float]) -> int | float:
    if key == "learning_rate_multiplier":
        return given.get(key, 1.0)
    return chosen[LoopConfig].epochs if key == "n_epochs" else chosen.flat()[OURS[key]]


def _checked(key: str, value: Any, param: str) -> int | float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key in ("n_epochs", "batch_size"):
        most = 50 if key == "n_epochs" else 256
        require(number and value == int(value) and 1 <= value <= most, param, f"'{key}' must be 'auto' or 1 to {most}.")
        return int(value)
    if key == "beta":
        require(number and 0 < value <= 2, param, "'beta' must be 'auto' or above 0 and at most 2.")
    require(number and value > 0, param, f"'{key}' must be 'auto' or a number above 0.")
    return float(value)
