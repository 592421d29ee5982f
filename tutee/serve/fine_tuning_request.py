"""What a client asks of a fine-tuning job: every field of the body checked before a row is written.

To add a method: its name and hyperparameters in `METHODS`; the worker must know it too. Does not read the files: the
worker does, and names the bad line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutee.errors import InvalidInput
from tutee.serve.body import Fields

MOST_EPOCHS, MOST_BATCH, MOST_BETA = 50, 256, 2.0
SUFFIX = 64
LEAST_POSITIVE = math.nextafter(0.0, 1.0)
MOST_MULTIPLIER = 1e6

METHODS: Mapping[str, tuple[str, ...]] = {
    "supervised": ("n_epochs", "batch_size", "learning_rate_multiplier"),
    "dpo": ("n_epochs", "batch_size", "learning_rate_multiplier", "beta"),
}
"""The methods that the worker runs, each with its hyperparameters."""


@dataclass(frozen=True, slots=True)
class FineTuningRequest:
    """A checked body. `hyperparameters` holds what was given, `auto` included."""

    model: str
    method: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int | None
    metadata: dict[str, str] | None
    hyperparameters: dict[str, Any]
    settings: dict[str, Any]


def read_fine_tuning_request(body: Fields) -> FineTuningRequest:
    """Check the body of a new job.

    Raises:
        InvalidInput: naming the field by its dotted path.
    """
    model = body.need_string("model")
    training_file = body.need_string("training_file")
    old_style = body.object("hyperparameters")
    method, hyperparameters, settings = _method(body.object("method"), old_style)
    if body.array("integrations"):
        body.refuse("integrations", "are not supported: metrics are in the job's events", "unsupported_parameter")
    return FineTuningRequest(
        model=model,
        method=method,
        training_file=training_file,
        validation_file=body.string("validation_file", least=1),
        suffix=body.string("suffix", least=1, most=SUFFIX),
        seed=body.integer("seed", 0, 2**31 - 1),
        metadata=body.metadata(),
        hyperparameters=hyperparameters,
        settings=settings,
    )


def _method(method: Fields | None, old_style: Fields | None) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The method's name, its hyperparameters and our own settings (`x_settings`)."""
    if method is None:
        return "supervised", {} if old_style is None else _hyperparameters(old_style, METHODS["supervised"]), {}
    name = method.need_string("type")
    if name not in METHODS:
        method.refuse("type", f"is {name!r}; this server trains with {' or '.join(METHODS)}", "invalid_value")
    for other in method.raw:
        if other not in ("type", name):
            message = f"'method' has type {name!r}, but '{other}' is given as well."
            raise InvalidInput(message, param="method", code="invalid_value")
    own = method.object(name)
    if own is None:
        return name, {}, {}
    given = own.object("hyperparameters")
    hyperparameters = {} if given is None else _hyperparameters(given, METHODS[name])
    settings = own.object("x_settings")
    ours = {} if settings is None else {key: settings.take(key) for key in settings.raw}
    own.refuse_unknown()
    return name, hyperparameters, ours


def _hyperparameters(given: Fields, allowed: tuple[str, ...]) -> dict[str, Any]:
    for name in given.raw:
        if name not in allowed:
            given.refuse(
                name, f"is not a hyperparameter of this method; it has {', '.join(allowed)}", "unknown_parameter"
            )
    out = {}
    for name in allowed:
        if (value := given.take(name)) is not None:
            out[name] = value if value == "auto" else _number(given, name)
    return out


def _number(given: Fields, name: str) -> int | float | None:
    if name == "n_epochs":
        return given.integer(name, 1, MOST_EPOCHS)
    if name == "batch_size":
        return given.integer(name, 1, MOST_BATCH)
    most = MOST_BETA if name == "beta" else MOST_MULTIPLIER
    value = given.number(name, -math.inf, most)
    if value is not None and value < LEAST_POSITIVE:
        given.refuse(name, f"is {value}; it must be above 0", "decimal_below_min_value")
    return value
