"""The weights that requests can name: one base, and the adapters over it that are in memory now.

Knows names and which was used last; loading an adapter from its file is the caller's. A version that is dropped serves
to their end the sequences that run on it, because each holds its own.
"""

from __future__ import annotations

from collections import OrderedDict

from tutee.engine.sequence import Version
from tutee.errors import InvalidInput, NotFound


class Versions:
    """At most `most_adapters` beside the base; one more drops the one that was used longest ago."""

    def __init__(self, base: Version, most_adapters: int) -> None:
        self.base = base
        self._most = most_adapters
        self._adapters: OrderedDict[str, Version] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """The base first, then the adapters, the one used last at the end."""
        return self.base.name, *tuple(self._adapters)

    def use(self, name: str | None) -> Version:
        """The version of that name (None: the base), marked as used now. Raises `NotFound`."""
        if name is None or name == self.base.name:
            return self.base
        found = self._adapters.get(name)
        if found is None:
            raise NotFound(f"The model {name!r} is not loaded.", param="model", code="model_not_found")
        self._adapters.move_to_end(name)
        return found

    def add(self, version: Version, *, replace: bool = False) -> None:
        """Raises `InvalidInput` when the name is taken (an adapter's may be replaced, the base's never)."""
        taken = version.name == self.base.name or (version.name in self._adapters and not replace)
        if taken:
            message = f"The version {version.name!r} is loaded already."
            raise InvalidInput(message, param="version", code="invalid_value")
        self._adapters[version.name] = version
        self._adapters.move_to_end(version.name)
        while len(self._adapters) > self._most:
            self._adapters.popitem(last=False)

    def remove(self, name: str) -> None:
        """Raises `NotFound`; `InvalidInput` for the base."""
        if name == self.base.name:
            raise InvalidInput("The base cannot be removed from its engine.", param="version", code="invalid_value")
        if self._adapters.pop(name, None) is None:
            raise NotFound(f"The version {name!r} is not loaded.", param="version", code="model_not_found")
