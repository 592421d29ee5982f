"""Where sequences begin in a flat row of tokens, and where their keys and values live.

The one argument in which packed training, scoring, prefill and decode differ. Knows the geometry of attention (which
sequences are computed together, padded to one size); does not compute it (`attention.py`).

Axes: T tokens, B sequences, N new tokens of each (padded), S keys of each (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutee.model.kv_cache import KVCache
from tutee.model.lora import Lora

Adapters = tuple[tuple[Lora, slice | Tensor], ...]
"""Which rows of [T] go through which adapter; rows that are named by none go through the base alone."""

SMALL_AREA = 4096
"""Query-key pairs of a sequence below which padding costs less than another call."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of one layout that are attended in one call, padded to the longest."""

    rows_BN: Tensor | None
    """Rows of [T] that are the queries (without a cache the keys too); None: all of them, in order."""
    shape: tuple[int, int]
    """(B, N)."""
    blocks: Tensor | None
    """Cache blocks [B, S / block_size] that hold the keys; None: the new tokens are all the keys there are."""
    bias_BNS: Tensor | None
    """0 or -inf, float32, first axis 1 or B; None: N = S and plainly causal."""


class Layout:
    """Made by `Layout.packed` or `Layout.cached`; never changed afterwards."""

    def __init__(
        self,
        starts: Sequence[int],
        context_lengths: Sequence[int],
        cache: KVCache | None,
        block_tables: Tensor | None,
        slots_T: Tensor | None,
        adapters: Adapters,
        device: torch.device | str = "cpu",
    ) -> None:
        self.starts = tuple(starts)
        self.context_lengths = tuple(context_lengths)
        self.cache = cache
        self.block_tables = block_tables
        self.adapters = adapters
        self.device = torch.device(device)
        self._groups: dict[int | None, tuple[list[Group], Tensor | None]] = {}
        lengths = torch.tensor(self.starts).diff()
        assert (lengths > 0).all(), "every sequence brings at least one new token"
        firsts = torch.tensor(self.context_lengths) - lengths - torch.tensor(self.starts[:-1])
        self._positions = (torch.arange(self.starts[-1]) + firsts.repeat_interleave(lengths)).to(self.device)
        self.slots_T = slots_T
        if slots_T is None and cache is not None and block_tables is not None:
            sequence_T = torch.arange(len(lengths)).repeat_interleave(lengths).to(self.device)
            block_T = block_tables[sequence_T, self._positions // cache.block_size]
            self.slots_T = block_T * cache.block_size + self._positions % cache.block_size

    @classmethod
    def packed(cls, lengths: Sequence[int], lora: Lora | None = None, device: torch.device | str = "cpu") -> Layout:
        """Sequences laid end to end that see only themselves, with no cache; differentiable.

        Args:
            lengths: tokens of each sequence; their sum is T.
            lora: the adapter for all of them, or None for the base.
        """
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + int(length))
        adapters: Adapters = () if lora is None else ((lora, slice(0, starts[-1])),)
        return cls(starts, [int(length) for length in lengths], None, None, None, adapters, device)

    @classmethod
    def cached(
        cls,
        cache: KVCache,
        starts: Sequence[int] | Tensor,
        block_tables: Tensor | Sequence[Sequence[int]],
        context_lengths: Sequence[int] | Tensor,
        slots_T: Tensor | None = None,
        adapters: Adapters = (),
    ) -> Layout:
        """New tokens of B sequences that also see their past in the cache: prefill, chunks of it, decode, any mix.

        Args:
            cache: holds earlier tokens; the forward pass writes the new ones into it.
            starts: B+1 offsets of the new tokens in [T]; a decode step has one new token a sequence.
            block_tables: B rows of block numbers, padded with any number to a common width (or ragged lists).
            context_lengths: tokens of each sequence including the new ones.
            slots_T: where each new token's key and value go; None: worked out from the block tables.
            adapters: which rows of [T] go through which adapter.
        """
        device = cache.keys[0].device
        if not isinstance(block_tables, Tensor):
            width = max(len(row) for row in block_tables)
            block_tables = torch.tensor([[*row, *[0] * (width - len(row))] for row in block_tables])
        tables = block_tables.to(device=device, dtype=torch.int64)
        return cls(_integers(starts), _integers(context_lengths), cache, tables, slots_T, adapters, device)

    @property
    def positions(self) -> Tensor:
        """Each new token's position in its own sequence, int64 [T]: what `Decoder.forward` usually wants."""
        return self._positions

    @property
    def last_rows(self) -> Tensor:
        """Row of each sequence's last new token, int64 [B], whose hidden state predicts what comes next."""
        return torch.tensor(self.starts[1:], device=self.device) - 1

    def groups(self, window: int | None) -> tuple[list[Group], Tensor | None]:
        """How attention is computed: the groups, and which row of their outputs laid end to end each of [T] is.

        Worked out once and shared by all layers. The second is None when it would change nothing.

        Args:
            window: how many newest tokens a token sees, itself included; None: all.
        """
        if window not in self._groups:
            self._groups[window] = self._make_groups(window)
        return self._groups[window]

    def _make_groups(self, window: int | None) -> tuple[list[Group], Tensor | None]:
        chosen = self._partition()
        groups = [self._group(members, window) for members in chosen]
        if len(groups) == 1 and groups[0].rows_BN is None:
            return groups, None
        order_T = torch.empty(self.starts[-1], dtype=torch.int64)
        offset = 0
        for members, group in zip(chosen, groups, strict=True):
            for i, b in enumerate(members):
                first = offset + i * group.shape[1]
                order_T[self.starts[b] : self.starts[b + 1]] = torch.arange(first, first + self._length(b))
            offset += group.shape[0] * group.shape[1]
        return groups, order_T.to(self.device)

    def _length(self, b: int) -> int:
        return self.starts[b + 1] - self.starts[b]

    def _partition(self) -> list[list[int]]:
        """Sequences of like size together: padding is bounded by a quarter of the queries and half of the keys."""

        def size(b: int) -> tuple[bool, int, int]:
            return self._length(b) < self.context_lengths[b], self._length(b), self.context_lengths[b]

        out: list[list[int]] = []
        for b in sorted(range(len(self.context_lengths)), key=size, reverse=True):
            past, new, keys = size(b)
            if out:
                head_past, head_new, head_keys = size(out[-1][0])
                alike = 4 * new >= 3 * head_new and 2 * keys >= head_keys
                if past == head_past and (alike or head_new * head_keys <= SMALL_AREA):
                    out[-1].append(b)
                    continue
            out.append([b])
        return [sorted(members) for members in out]

    def _group(self, members: list[int], window: int | None) -> Group:
        lengths = torch.tensor([self._length(b) for b in members])
        contexts = torch.tensor([self.context_lengths[b] for b in members])
        new = int(lengths.max())
        everything = len(members) == len(self.context_lengths) and bool((lengths == new).all())
        rows_BN = None
        if not everything:
            firsts = torch.tensor([self.starts[b] for b in members])
            steps_BN = torch.minimum(torch.arange(new), lengths[:, None] - 1)
            rows_BN = (firsts[:, None] + steps_BN).to(self.device)
        shape = (len(members), new)
        if bool((contexts == lengths).all()):
            bias_BNS = (
                None if window is None or new <= window else _bias(torch.zeros(1, dtype=torch.int64), new, new, window)
            )
            return Group(rows_BN, shape, None, None if bias_BNS is None else bias_BNS.to(self.device))
        assert self.cache is not None
        assert self.block_tables is not None
        size = self.cache.block_size
        width = -(-int(contexts.max()) // size)
        blocks = self.block_tables[torch.tensor(members), :width]
        full = new == 1 and window is None and bool((contexts == width * size).all())
        bias_BNS = None if full else _bias(contexts - lengths, new, width * size, window).to(self.device)
        return Group(rows_BN, shape, blocks, bias_BNS)


def _bias(firsts_B: Tensor, new: int, keys: int, window: int | None) -> Tensor:
    """[B, N, S] of 0 and -inf for queries at positions `firsts + 0 … new - 1` over keys at positions 0 … keys - 1."""
    queries_BN1 = (firsts_B[:, None] + torch.arange(new))[:, :, None]
    keys_S = torch.arange(keys)
    hidden = keys_S > queries_BN1
    if window is not None:
        hidden |= keys_S <= queries_BN1 - window
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


def _integers(values: Sequence[int] | Tensor) -> list[int]:
    return values.tolist() if isinstance(values, Tensor) else [int(value) for value in values]
