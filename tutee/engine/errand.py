"""Something that another thread wants the engine's thread to do between two steps. Knows nothing of what it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Errand:
    """`drained`: only once all requests made before it have ended. `done` tells who sent it how it went."""

    action: Callable[[], None]
    drained: bool = False
    done: Future[None] = field(default_factory=Future)

    def run(self) -> None:
        try:
            self.action()
        except Exception as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)
