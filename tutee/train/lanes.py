"""A step's microbatches side by side, one thread each, instead of every product on all cores.

Threads that share one product wait for each other hundreds of times a step, and beside a busy chat the slower one sets
the pace. Microbatches share nothing, so two cores make twice of what one makes, and one that is taken away costs no
more than itself. Knows nothing of losses or parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from tutee.model import compiled
from tutee.train.batch import Group

T = TypeVar("T")
R = TypeVar("R")


def balanced(groups: Sequence[Group], lanes: int) -> list[list[Group]]:
    """The groups dealt to at most `lanes` lists of about equal tokens, the largest first; none is empty. One lane keeps
    their order."""
    if lanes == 1:
        return [list(groups)]
    shares: list[list[Group]] = [[] for _ in range(min(lanes, len(groups)))]
    load = [0] * len(shares)
    for group in sorted(groups, key=lambda group: group.packed_tokens(True), reverse=True):
        least = load.index(min(load))
        shares[least].append(group)
        load[least] += group.packed_tokens(True)
    return shares


def side_by_side(work: Callable[[T], R], items: Sequence[T], lanes: int) -> list[R]:
    """`work` of every item, in order, at most `lanes` at a time; each on one core."""
    if lanes == 1 or len(items) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(lanes, len(items)), initializer=_on_one_core) as pool:
        return list(pool.map(work, items))


def lanes() -> int:
    """How many there can be: the threads that PyTorch may use here, where a thread can be kept to one core."""
    return torch.get_num_threads() if compiled.load_amx("matmul.c") is not None else 1


def _on_one_core() -> None:
    # PyTorch's own setting is for the whole process; OpenMP's is this thread's.
    torch.get_num_threads()
    library = compiled.load_amx("matmul.c")
    assert library is not None
    library.use_threads(1)
