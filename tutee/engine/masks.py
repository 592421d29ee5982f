"""Which tokens the rows of a step may take, worked out beside the forward pass.

A grammar's next mask depends on the tokens before it alone, so it is computed by a thread of its own while the model
runs (both let go of Python's lock), and a step without grammars pays nothing. Knows the samplers' states and bits; not
where logits come from.

Axes: R rows that have a grammar, W words of 32 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutee.engine.grammar import GrammarExhausted
from tutee.engine.sampler import Masks, SamplerState
from tutee.engine.sequence import Sequence


class Stuck(Exception):
    """Some sequences have no way on in their grammar: (sequence, why)."""

    def __init__(self, found: list[tuple[Sequence, GrammarExhausted]]) -> None:
        super().__init__(f"{len(found)} grammars have no way on")
        self.found = found


@dataclass(frozen=True, slots=True)
class Pending:
    """Masks on their way."""

    future: Future[tuple[Masks, dict[int, GrammarExhausted]]] | None

    def result(self, rows: Seq[Sequence]) -> Masks | None:
        """The masks; None when no row has a grammar. `rows` says whose each row is.

        Raises:
            Stuck: naming the sequences at fault.
        """
        if self.future is None:
            return None
        masks, problems = self.future.result()
        if problems:
            raise Stuck([(rows[row], problem) for row, problem in problems.items()])
        return masks


class MaskThread:
    """Computes masks while the caller does something else; the thread starts with the first grammar."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, states: Seq[SamplerState]) -> Pending:
        """Start on the masks of these rows; nothing may be accepted by them until the result is there."""
        if all(state.matcher is None for state in states):
            return Pending(None)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        return Pending(self._pool.submit(compute, states))


def compute(states: Seq[SamplerState]) -> tuple[Masks, dict[int, GrammarExhausted]]:
    """The masks of the rows that have a grammar, and why some of these rows have no way on."""
    found = [(row, state.matcher) for row, state in enumerate(states) if state.matcher is not None]
    allowed_RW: NDArray[np.int32] = np.empty((len(found), found[0][1].words), dtype=np.int32)
    problems = {}
    for place, (row, matcher) in enumerate(found):
        matcher.fill(allowed_RW[place])
        problem = matcher.problem(allowed_RW[place])
        if problem is not None:
            problems[row] = problem
    return Masks([row for row, _ in found], allowed_RW), problems
