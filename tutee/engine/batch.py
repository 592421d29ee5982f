"""Scheduled sequences as the tensors of one forward pass.

Knows how tokens of several sequences lie in a flat row, which cache slots they write, and which rows an adapter
concerns.

Axes: T new tokens, B sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutee.engine.blocks import SCRATCH_BLOCK
from tutee.engine.scheduler import Scheduled
from tutee.engine.sequence import Sequence, Version
from tutee.model.kv_cache import KVCache
from tutee.model.layout import Adapters, Layout


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input. `sampled[i]` gets its next token from the hidden state in row `sample_rows[i]`."""

    tokens: Tensor
    """[T]"""
    layout: Layout
    sampled: list[Sequence]
    sample_rows: Tensor
    work: list[Scheduled]

    def owners(self, marked_T: Tensor) -> list[Sequence]:
        """The sequences that have a marked token in this batch."""
        parts = torch.split(marked_T, [item.count for item in self.work])
        return [item.sequence for item, part in zip(self.work, parts, strict=True) if bool(part.any())]


def make_batch(work: list[Scheduled], cache: KVCache, block_size: int, device: torch.device | str = "cpu") -> Batch:
    """Lay out one step's work, sequences of one version side by side."""
    work = sorted(work, key=lambda item: item.sequence.version.root)
    counts = [item.count for item in work]
    starts = np.zeros(len(work) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    tokens: list[int] = []
    for item in work:
        done = item.sequence.computed
        tokens += item.sequence.tokens[done : done + item.count]
    layout = Layout.cached(
        cache,
        starts.tolist(),
        _block_tables(work, device),
        [item.sequence.computed + item.count for item in work],
        torch.tensor(_slots(work, block_size), device=device),
        _adapters([item.sequence.version for item in work], starts.tolist()),
    )
    ends = [int(end) - 1 for item, end in zip(work, starts[1:], strict=True) if item.samples]
    sampled = [item.sequence for item in work if item.samples]
    return Batch(torch.tensor(tokens, device=device), layout, sampled, torch.tensor(ends, device=device), work)


def _block_tables(work: list[Scheduled], device: torch.device | str) -> Tensor:
    table = np.zeros((len(work), max(len(item.sequence.blocks) for item in work)), dtype=np.int64)
    for row, item in enumerate(work):
        table[row, : len(item.sequence.blocks)] = item.sequence.blocks
    return torch.from_numpy(table).to(device)


def _slots(work: list[Scheduled], block_size: int) -> list[int]:
    """Where each new token's key and value are written.

    A token inside reused blocks is computed only to know what follows it: its key and value are there already, in a
    block that others read, so the new ones go to the scratch block.
    """
    slots = []
    for item in work:
        sequence = item.sequence
        for position in range(sequence.computed, sequence.computed + item.count):
            place, offset = divmod(position, block_size)
            block = SCRATCH_BLOCK if position < sequence.reused else sequence.blocks[place]
            slots.append(block * block_size + offset)
    return slots


def _adapters(versions: list[Version], starts: list[int]) -> Adapters:
    """One slice of rows for each adapter; `versions` come in groups."""
    spans: dict[Version, tuple[int, int]] = {}
    for version, begin, end in zip(versions, starts, starts[1:], strict=False):
        spans[version] = (spans.get(version, (begin, end))[0], end)
    return tuple((version.lora, slice(*span)) for version, span in spans.items() if version.lora is not None)
