"""Settings dataclasses read from JSON-like mappings: an unknown key or a wrong kind is an error that names the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints

from tutee.errors import InvalidInput

Options = TypeVar("Options")


def read_options(kind: type[Options], raw: Mapping[str, Any], param: str = "settings") -> Options:
    """An instance of the dataclass `kind` with the given values over its defaults.

    Raises:
        InvalidInput: a key that `kind` does not have, a value of another type, or one that `kind` itself refuses.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise InvalidInput(
                f"'{param}.{key}' is not a setting. Settings: {', '.join(sorted(known))}.",
                param=f"{param}.{key}",
                code="unknown_parameter",
            )
        values[key] = _convert(value, hints[key], f"{param}.{key}")
    try:
        return kind(**values)
    except InvalidInput as error:
        raise InvalidInput(error.message, param=f"{param}.{error.param}", code=error.code) from None


def require(condition: bool, param: str, message: str) -> None:
    """Raise InvalidInput with `param` unless the condition holds; for the range checks of settings classes."""
    if not condition:
        raise InvalidInput(message, param=param, code="invalid_value")


def _convert(value: Any, hint: Any, param: str) -> Any:
    # `Literal["a", "b"] | None` holds its words one level down.
    allowed = tuple(word for kind in get_args(hint) or (hint,) for word in get_args(kind) or (kind,))
    if isinstance(value, bool):
        if bool in allowed:
            return value
    elif isinstance(value, int) and int in allowed:
        return value
    elif isinstance(value, int | float) and float in allowed and math.isfinite(value):
        return float(value)
    elif (value is None and type(None) in allowed) or (isinstance(value, str) and (str in allowed or value in allowed)):
        return value
    elif isinstance(value, list | tuple) and any(
        getattr(kind, "__origin__", kind) is tuple for kind in (hint, *get_args(hint))
    ):
        return tuple(value)
    words = [word for word in allowed if isinstance(word, str)]
    wanted = f"it must be one of {', '.join(words)}" if words else "that is not of the right type"
    if isinstance(value, float) and not math.isfinite(value):
        wanted = "it must be a finite number"
    raise InvalidInput(f"'{param}' is {value!r}; {wanted}.", param=param, code="invalid_type")
