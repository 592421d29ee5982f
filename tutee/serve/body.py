"""Request bodies: JSON read once, then fields taken by name and checked one by one.

Every complaint names the field by its dotted path and has the code that OpenAI's API uses for it. `null` counts as
absent. Fields that nobody asked for are remembered, and the edge lists them in `x-ignored-params`. pydantic is not
used: its errors would have to be translated, and this path is hot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import msgspec
from fastapi import Depends, Request

from tutee.errors import InvalidInput

METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512
INT64 = 2**63


class Fields:
    """One JSON object of a request; `path` is where it sits in the body (empty for the body itself)."""

    def __init__(self, raw: Mapping[str, Any], path: str = "") -> None:
        self.raw = raw
        self.path = path
        self.strict = False
        """Whether the server refuses unknown fields (`Settings.strict`)."""
        self._taken: set[str] = set()
        self._children: list[Fields] = []

    def at(self, name: str) -> str:
        """The dotted path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Any:
        """The raw value, or None; the field counts as known from now on."""
        self._taken.add(name)
        return self.raw.get(name)

    def refuse(self, name: str, message: str, code: str) -> NoReturn:
        """Raise InvalidInput about a field."""
        raise InvalidInput(f"'{self.at(name)}' {message}.", param=self.at(name), code=code)

    def need(self, name: str) -> None:
        """Raise unless the field is present and not null."""
        if self.raw.get(name) is None:
            self.refuse(name, "is missing", "missing_required_parameter")

    def string(self, name: str, *, most: int | None = None, least: int = 0) -> str | None:
        """A string of `least` to `most` characters."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.refuse(name, f"must be a string, not {_kind(value)}", "invalid_type")
        if len(value) < least:
            self.refuse(name, f"must have at least {least} characters", "string_below_min_length")
        if most is not None and len(value) > most:
            self.refuse(name, f"has {len(value)} characters; at most {most} are allowed", "string_above_max_length")
        return value

    def need_string(self, name: str, *, most: int | None = None, least: int = 1) -> str:
        """A required string."""
        self.need(name)
        value = self.string(name, most=most, least=least)
        assert value is not None
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """One of a few words."""
        value = self.string(name)
        if value is not None and value not in allowed:
            self.refuse(name, f"is {value!r}; it must be one of {', '.join(allowed)}", "invalid_value")
        return value

    def boolean(self, name: str) -> bool | None:
        """true or false."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, f"must be true or false, not {_kind(value)}", "invalid_type")
        return value

    def integer(self, name: str, low: int = -INT64, high: int = INT64 - 1) -> int | None:
        """A whole number within [low, high]."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(name, f"must be a whole number, not {_kind(value)}", "invalid_type")
        self._within(name, value, low, high, "integer")
        return int(value)

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within [low, high]."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, f"must be a number, not {_kind(value)}", "invalid_type")
        self._within(name, value, low, high, "decimal")
        return float(value)

    def _within(self, name: str, value: float, low: float, high: float, kind: str) -> None:
        if value < low:
            self.refuse(name, f"is {value}; the least allowed is {low}", f"{kind}_below_min_value")
        if value > high:
            self.refuse(name, f"is {value}; the most allowed is {high}", f"{kind}_above_max_value")

    def array(self, name: str, *, most: int | None = None) -> list[Any] | None:
        """A list of at most `most` items."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.refuse(name, f"must be a list, not {_kind(value)}", "invalid_type")
        if most is not None and len(value) > most:
            self.refuse(name, f"has {len(value)} items; at most {most} are allowed", "array_above_max_length")
        return value

    def strings(self, name: str, *, most: int, longest: int) -> list[str] | None:
        """A list of at most `most` strings of at most `longest` characters."""
        values = self.array(name, most=most)
        for i, value in enumerate(values or ()):
            if not isinstance(value, str):
                self.refuse(f"{name}[{i}]", f"must be a string, not {_kind(value)}", "invalid_type")
            if len(value) > longest:
                self.refuse(f"{name}[{i}]", f"has more than {longest} characters", "string_above_max_length")
        return values

    def object(self, name: str) -> Fields | None:
        """A nested object."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(name, f"must be an object, not {_kind(value)}", "invalid_type")
        child = Fields(value, self.at(name))
        self._children.append(child)
        return child

    def objects(self, name: str, *, most: int) -> list[Fields]:
        """A list of at most `most` objects; none when it is absent."""
        found = []
        for i, value in enumerate(self.array(name, most=most) or ()):
            if not isinstance(value, dict):
                self.refuse(f"{name}[{i}]", f"must be an object, not {_kind(value)}", "invalid_type")
            found.append(Fields(value, f"{self.at(name)}[{i}]"))
        self._children += found
        return found

    def metadata(self, name: str = "metadata") -> dict[str, str] | None:
        """OpenAI's metadata: at most 16 pairs of short strings."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(name, f"must be an object, not {_kind(value)}", "invalid_type")
        if len(value) > METADATA_PAIRS:
            self.refuse(
                name, f"has {len(value)} pairs; at most {METADATA_PAIRS} are allowed", "object_above_max_properties"
            )
        for key, text in value.items():
            if len(key) > METADATA_KEY:
                self.refuse(name, f"has a key of more than {METADATA_KEY} characters", "string_above_max_length")
            if not isinstance(text, str):
                self.refuse(f"{name}.{key}", f"must be a string, not {_kind(text)}", "invalid_type")
            if len(text) > METADATA_VALUE:
                self.refuse(f"{name}.{key}", f"has more than {METADATA_VALUE} characters", "string_above_max_length")
        return value

    def unsupported(self, names: Mapping[str, Sequence[Any]]) -> None:
        """Refuse fields that OpenAI has and this server does not, unless their value asks for nothing."""
        for name, harmless in names.items():
            value = self.take(name)
            if value is not None and value not in harmless:
                self.refuse(name, "is not supported by this server", "unsupported_parameter")

    def unknown(self) -> list[str]:
        """Dotted paths of the fields that nobody took."""
        own = [self.at(name) for name in self.raw if name not in self._taken]
        return own + [name for child in self._children for name in child.unknown()]

    def close(self) -> None:
        """All known fields are taken: under the `strict` setting, raise about the first other one."""
        if self.strict:
            self.refuse_unknown()

    def refuse_unknown(self) -> None:
        """Raise about the first field that nobody took: for settings, where ignoring one would mislead."""
        for path in self.unknown():
            raise InvalidInput(f"'{path}' is not a known field.", param=path, code="unknown_parameter")


def read_new_metadata(body: Fields) -> dict[str, str]:
    """The body of a route that replaces metadata and nothing else: they must be there; null takes them all away."""
    if "metadata" not in body.raw:
        body.need("metadata")
    metadata = body.metadata() or {}
    body.close()
    return metadata


async def read_fields(request: Request) -> Fields:
    """The body as `Fields`; an absent body is an empty object.

    Raises:
        InvalidInput: a body that is not declared as JSON, not UTF-8, not JSON, or not an object.
    """
    text = await request.body()
    fields = Fields(parse_object(text, request.headers.get("content-type")) if text else {})
    fields.strict = request.app.state.services.settings.strict
    request.state.fields = fields
    return fields


def parse_object(text: bytes, content_type: str | None) -> dict[str, Any]:
    """Decode a JSON object, refusing what other layers could choke on (depth, NUL, broken Unicode)."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidInput(
            f"The Content-Type is {kind or 'missing'}; send application/json.", code="invalid_content_type"
        )
    try:
        text.decode("utf-8")
        value = msgspec.json.decode(text)
        if b"\\u0000" in text and _has_nul(value):
            raise InvalidInput("The body holds a NUL character, which text may not contain.", code="invalid_json")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The body is not UTF-8 (byte {error.start}).", code="invalid_json") from None
    except RecursionError:
        raise InvalidInput("The body is nested too deeply.", code="invalid_json") from None
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"The body must be a JSON object, not {_kind(value)}.", code="invalid_type")
    return value


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


Body = Annotated[Fields, Depends(read_fields)]
"""What a handler writes to get the checked body."""
