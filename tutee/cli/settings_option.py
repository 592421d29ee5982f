"""The option `--set key=value` of everything that trains."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tutee.errors import InvalidInput

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value; unknown keys are errors. May be repeated.")
]


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` options as a dict; values are JSON where they can be, text otherwise."""
    settings: dict[str, Any] = {}
    for pair in pairs or []:
        key, separator, text = pair.partition("=")
        if not separator:
            raise InvalidInput(f"--set {pair}: write key=value.", param="--set")
        if key in settings:
            raise InvalidInput(f"--set {key} is given twice.", param="--set")
        try:
            settings[key] = json.loads(text)
        except json.JSONDecodeError:
            settings[key] = text
    return settings
