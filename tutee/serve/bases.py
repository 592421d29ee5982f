"""The weights in memory: an engine of its own for every base, and for every version with full weights, that is in use.

Opened when a version over them is named. When another takes their place, streams that run on them run on to their end
and new requests do not wait for that; when nobody has asked for them for a while they are closed and their memory is
given back, to be opened again (a rollback) in the seconds that reading a file takes. So for as long as old answers take
two models are in memory. Knows no aliases and no people.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import NamedTuple

from tutee.engine.engine import Engine
from tutee.engine.stats import EngineStats
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.settings import Settings
from tutee.store.schema import ModelVersion

log = logging.getLogger("tutee.serve")

LINGER_SECONDS = 30.0
"""How long weights that nobody asks for stay in memory: two requests for one version should not load it twice."""


class Lease:
    """Held by who may still ask; the engine is not closed before the last one lets go of it."""


class Leased(NamedTuple):
    """An engine that stays open for as long as the lease is held."""

    engine: Engine
    model: Pretrained
    lease: Lease


@dataclass(slots=True)
class _Base:
    """Weights with their engine."""

    engine: Engine
    model: Pretrained
    lease: weakref.ref[Lease] | None = None
    used: float = field(default_factory=time.monotonic)
    """When somebody was last seen to use it."""

    def leased(self) -> Leased:
        """With the lease that others hold already, or a new one."""
        lease = (self.lease and self.lease()) or Lease()
        self.lease, self.used = weakref.ref(lease), time.monotonic()
        return Leased(self.engine, self.model, lease)

    @property
    def in_use(self) -> bool:
        # In this order: without a lease nothing new can come, so what is idle then stays idle.
        return (self.lease is not None and self.lease() is not None) or self.engine.busy


class Bases:
    """All methods may be called from any thread; a load holds up only those who ask for something to be loaded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, _Base] = {}
        self._past: EngineStats | None = None
        self._lock = threading.Lock()
        self._loading = threading.RLock()

    @property
    def engines(self) -> list[Engine]:
        """Those that run."""
        return [base.engine for base in self._known()]

    @property
    def stats(self) -> list[EngineStats]:
        """Of those that run, and the totals of all that were closed, so that no total ever falls."""
        with self._lock:
            past = [] if self._past is None else [self._past]
            return [base.engine.stats for base in self._open.values()] + past

    def add(self, id: str, model: Pretrained) -> Leased:
        """Start an engine over a model whose parameters nobody else needs."""
        settings = self._settings
        engine = Engine(
            model,
            max_batch=settings.max_batch,
            cache_tokens=settings.cache_tokens,
            max_waiting=settings.max_waiting,
            precision=settings.precision,
            version=id,
            alone=True,
        )
        base = _Base(engine, model)
        with self._lock:
            self._open[id] = base
            return base.leased()

    def find(self, id: str) -> Leased | None:
        """What is open under this id, without waiting for others that are being loaded."""
        with self._lock:
            base = self._open.get(id)
            return None if base is None else base.leased()

    def open(self, root: ModelVersion) -> Leased:
        """The same, read from the version's folder if need be. Raises as `load_pretrained`."""
        with self._loading:
            found = self.find(root.id)
            if found is not None:
                return found
            folder = self._settings.home / root.folder
            return self.add(root.id, load_pretrained(folder, self._settings.dtype, name=root.name))

    def close_unused(self) -> None:
        """Close engines that nobody holds, that nothing runs on, and that nobody has asked for lately."""
        now = time.monotonic()
        with self._lock:
            unused = []
            for id, base in self._open.items():
                if base.in_use:
                    base.used = now
                elif now - base.used >= LINGER_SECONDS:
                    unused.append(id)
            closing = [self._open.pop(id) for id in unused]
            for base in closing:  # they are idle: nothing changes in these any more
                past = base.engine.stats.ended()
                self._past = past if self._past is None else self._past.plus(past)
        for base in closing:
            log.info("version %s is no longer in memory", base.engine.versions[0])
            base.engine.close()

    def close(self) -> None:
        """End every engine; running answers are aborted."""
        for base in self._known():
            base.engine.close()

    def _known(self) -> list[_Base]:
        with self._lock:
            return list(self._open.values())
