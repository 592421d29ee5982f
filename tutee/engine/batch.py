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
from tutee.engine.readout import Rows
from tutee.engine.sampler import SamplerState
from tutee.engine.scheduler import Scheduled
from tutee.engine.sequence import Sequence, Version
from tutee.model.kv_cache import KVCache
from tutee.model.layout import Adapters, Layout


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input. A token is sampled after row `sample_rows[i]`, by `states[i]`.

    The rows of one item lie side by side: the last true token's, then one for each guessed token.
    """

    tokens: Tensor
    """[T]"""
    layout: Layout
    sampled: list[Scheduled]
    """The items that are sampled, in the order of their rows."""
    sample_rows: Tensor
    states: list[SamplerState]
    work: list[Scheduled]

    def owners(self, marked_T: Tensor) -> list[Sequence]:
        """The sequences that have a marked token in this batch."""
        parts = torch.split(marked_T, [item.count for item in self.work])
        return [item.sequence for item, part in zip(self.work, parts, strict=True) if bool(part.any())]

    def read(self, hidden_TD: Tensor) -> list[Rows]:
        """The rows of those prompts that somebody reads."""
        found = []
        for item, hidden_ND in zip(self.work, torch.split(hidden_TD, [item.count for item in self.work]), strict=True):
            sequence = item.sequence
            if sequence.readout is not None and sequence.reading:
                found.append(Rows(sequence.readout, sequence.request.prompt, sequence.computed, hidden_ND))
        return found


def make_batch(work: list[Scheduled], cache: KVCache, block_size: int, device: torch.device | str = "cpu") -> Batch:
    """Lay out one step's work, sequences of one version side by side."""
    work = sorted(work, key=lambda item: item.sequence.version.root)
    counts = [item.count for item in work]
    starts = np.zeros(len(work) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    tokens = [token for item in work for token in item.tokens]
    layout = Layout.cached(
        cache,
        starts.tolist(),
        _block_tables(work, device),
        [item.sequence.computed + item.count for item in work],
        torch.tensor(_slots(work, block_size), device=device),
        _adapters([item.sequence.version for item in work], starts.tolist()),
    )
    sampled = [item for item in work if item.samples]
    rows = [
        row
        for item, end in zip(work, starts[1:].tolist(), strict=True)
        if item.samples
        for row in range(end - 1 - len(item.draft), end)
    ]
    states = [item.sequence.sampler.after(item.draft[:i]) for item in sampled for i in range(len(item.draft) + 1)]
    return Batch(torch.tensor(tokens, device=device), layout, sampled, torch.tensor(rows, device=device), states, work)


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
