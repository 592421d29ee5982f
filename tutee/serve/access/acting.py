"""For whom the work of this moment is done, known down to where the engine is asked.

Set once for each request (`auth.authorise`) and for each line of a batch; threads that a handler starts through
`run_in_threadpool` know it too. So no handler can forget to charge a key, to hide another project's models, or to let
background work wait behind people. Knows no route and no key.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from tutee.engine.request import Chunk
from tutee.store.schema import DEFAULT_PROJECT, ModelVersion

Listener = Callable[[Chunk], None]


@dataclass(frozen=True, slots=True)
class Acting:
    """Who is served, and how."""

    project_id: str = DEFAULT_PROJECT
    priority: int = 0
    """The least urgent that the engine may be asked with: 0 for people who wait, 10 for batches."""
    charge: Callable[[int], None] | None = None
    """Told of every token, of prompts and of answers; None when nothing is limited."""

    def sees(self, version: ModelVersion) -> bool:
        """Whether a model may be used: bases and the live version by everybody, others inside their project."""
        return version.kind in ("base", "upstream") or version.state == "live" or version.project_id == self.project_id

    def metered(self, prompt_tokens: int, listener: Listener | None) -> Listener | None:
        """Charge a prompt now, and its answer as it comes; returns what to give to the engine."""
        charge = self.charge
        if charge is None:
            return listener
        charge(prompt_tokens)

        def hear(chunk: Chunk) -> None:
            charge(len(chunk.token_ids) or bool(chunk.text))  # another server sends text without ids
            if listener is not None:
                listener(chunk)

        return hear


NOBODY = Acting()
acting: ContextVar[Acting] = ContextVar("acting", default=NOBODY)
"""Whom the code that runs now works for."""
