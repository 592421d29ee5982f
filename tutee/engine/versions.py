"""The weights that requests can name: one base, and adapters over it, of which a bounded number is in memory.

An adapter is given as it is and stays until it is removed, or as a function that reads it: then it is loaded when it is
used, and dropped when others that are used more need the room. A sequence holds the version that it runs on, so
dropping or removing one disturbs nobody. Knows names and which was used last; nothing of files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from tutee.engine.sequence import Version
from tutee.errors import InvalidInput, NotFound
from tutee.model.lora import Lora

Source = Lora | Callable[[], Lora]


@dataclass(frozen=True, slots=True)
class _Stored:
    """An adapter that is read when it is used."""

    load: Callable[[], Lora]
    root: int


class Versions:
    """All methods may be called from any thread; a load holds up the others who ask for a version, and no step."""

    def __init__(self, base: Version, most_loaded: int) -> None:
        self.base = base
        self._most_loaded = most_loaded
        self._adapters: dict[str, Version | _Stored] = {}
        self._loaded: OrderedDict[str, Version] = OrderedDict()
        self._alive: WeakValueDictionary[int, Version] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """What can be used: the base first, then the adapters in the order of their coming."""
        return self.base.name, *tuple(self._adapters)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Adapters that were read and are kept in memory, the one used last at the end."""
        return tuple(self._loaded)

    def use(self, name: str | None) -> Version:
        """The version of that name (None: the base), loaded if need be.

        Raises:
            NotFound: no such version. And what its source raises.
        """
        if name is None or name == self.base.name:
            return self.base
        with self._lock:
            adapter = self._adapters.get(name)
            if adapter is None:
                raise NotFound(f"The model {name!r} is not loaded.", param="model", code="model_not_found")
            if isinstance(adapter, Version):
                return adapter
            # Sequences may still run on one that was dropped, and two objects of one root would be taken for two.
            version = self._alive.get(adapter.root) or Version(name, adapter.load(), adapter.root)
            self._alive[adapter.root] = self._loaded[name] = version
            self._loaded.move_to_end(name)
            while len(self._loaded) > self._most_loaded:
                self._loaded.popitem(last=False)
            return version

    def add(self, name: str, source: Source, root: int, *, replace: bool = False) -> None:
        """Raises `InvalidInput` when the name is taken (an adapter's may be replaced, the base's never)."""
        with self._lock:
            if name == self.base.name or (name in self._adapters and not replace):
                message = f"The version {name!r} is loaded already."
                raise InvalidInput(message, param="version", code="invalid_value")
            self._adapters[name] = Version(name, source, root) if isinstance(source, Lora) else _Stored(source, root)
            self._loaded.pop(name, None)

    def remove(self, name: str) -> None:
        """Raises `NotFound`; `InvalidInput` for the base."""
        if name == self.base.name:
            raise InvalidInput("The base cannot be removed from its engine.", param="version", code="invalid_value")
        with self._lock:
            if self._adapters.pop(name, None) is None:
                raise NotFound(f"The version {name!r} is not loaded.", param="version", code="model_not_found")
            self._loaded.pop(name, None)
