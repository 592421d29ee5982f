"""Where sequences begin in a flat row of tokens, and where their keys and values live.

The one argument in which packed training, scoring, prefill and decode differ. Knows the geometry of attention (which
sequences are computed together, padded to one size); does not compute it (`attention.py`).

Axes: T tokens, B sequences, N new tokens of each (padded), S keys of each (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    """Rows of [T] that are the queries; None: all of them, in order."""
    shape: tuple[int, int]
    """(B, N)."""
    keys_BS: Tensor | None
    """Rows of [T] that are the keys, where they are others than the queries: those of a parent, then the own."""
    blocks: Tensor | None
    """Cache blocks [B, S / block_size] that hold the keys; None: they are among the new tokens."""
    bias_BNS: Tensor | None
    """0 or -inf, float32, first axis 1 or B; None: N = S and plainly causal."""

    def queries(self, x_T: Tensor) -> Tensor:
        """Rows of [T, ...] as [B, N, ...]; padding repeats a sequence's last row."""
        return _picked(x_T, self.rows_BN, self.shape)

    def keys(self, x_T: Tensor) -> Tensor:
        """Rows of [T, ...] as [B, S, ...]; padding is any rows, which the bias hides."""
        return self.queries(x_T) if self.keys_BS is None else _picked(x_T, self.keys_BS, tuple(self.keys_BS.shape))

    def add_queries(self, sums_T: Tensor, x_BN: Tensor) -> None:
        """The reverse of `queries`: adds rows of [B, N, ...] to [T, ...] in place; padding must be 0."""
        _add(sums_T, self.rows_BN, x_BN)

    def add_keys(self, sums_T: Tensor, x_BS: Tensor) -> None:
        """The reverse of `keys`."""
        _add(sums_T, self.rows_BN if self.keys_BS is None else self.keys_BS, x_BS)


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
        parents: Sequence[int] = (),
    ) -> None:
        self.starts = tuple(starts)
        self.parents = tuple(parents) or (-1,) * len(context_lengths)
        self.context_lengths = tuple(context_lengths)
        self.cache = cache
        self.block_tables = block_tables
        self.adapters = adapters
        self.device = torch.device(device)
        self._groups: dict[int | None, tuple[list[Group], Tensor | None]] = {}
        # NumPy: PyTorch would wake its threads for these few numbers, and wait long for them on a busy machine.
        lengths = np.diff(self.starts)
        assert (lengths > 0).all(), "every sequence brings at least one new token"
        firsts = np.array(self.context_lengths) - lengths - np.array(self.starts[:-1])
        self._positions = torch.from_numpy(np.arange(self.starts[-1]) + firsts.repeat(lengths)).to(self.device)
        self.slots_T = slots_T
        if slots_T is None and cache is not None and block_tables is not None:
            sequence_T = torch.from_numpy(np.arange(len(lengths)).repeat(lengths)).to(self.device)
            block_T = block_tables[sequence_T, self._positions // cache.block_size]
            self.slots_T = block_T * cache.block_size + self._positions % cache.block_size

    @classmethod
    def packed(
        cls,
        lengths: Sequence[int],
        lora: Lora | None = None,
        device: torch.device | str = "cpu",
        parents: Sequence[int] = (),
    ) -> Layout:
        """Sequences laid end to end, with no cache; differentiable. Each sees itself and the one that it continues.

        So a prompt is computed once for all its answers: their keys and values are the prompt's, then their own.

        Args:
            lengths: tokens of each sequence; their sum is T.
            lora: the adapter for all of them, or None for the base.
            parents: the sequence that each continues, -1 for none; empty: none does. A parent comes before its
                children and has no parent itself.
        """
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + int(length))
        if any(p >= b or (p >= 0 and parents[p] >= 0) for b, p in enumerate(parents)):
            raise ValueError("a parent must come before its children and have no parent itself")
        pasts = [int(lengths[p]) if p >= 0 else 0 for p in parents or (-1,) * len(lengths)]
        contexts = [past + int(length) for past, length in zip(pasts, lengths, strict=True)]
        adapters: Adapters = () if lora is None else ((lora, slice(0, starts[-1])),)
        return cls(starts, contexts, None, None, None, adapters, device, parents)

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
        device = cache.device
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
        lengths = [self._length(b) for b in members]
        contexts = [self.context_lengths[b] for b in members]
        pasts_B = torch.tensor(contexts) - torch.tensor(lengths)
        new = max(lengths)
        everything = len(members) == len(self.context_lengths) and min(lengths) == new
        rows_BN = None
        if not everything:
            firsts = torch.tensor([self.starts[b] for b in members])
            steps_BN = torch.minimum(torch.arange(new), torch.tensor(lengths)[:, None] - 1)
            rows_BN = (firsts[:, None] + steps_BN).to(self.device)
        shape = (len(members), new)
        if contexts == lengths:
            bias_BNS = (
                None if window is None or new <= window else _bias(torch.zeros(1, dtype=torch.int64), new, new, window)
            )
            return Group(rows_BN, shape, None, None, None if bias_BNS is None else bias_BNS.to(self.device))
        if self.cache is None:
            keys_BS = self._keys(members, max(contexts))
            bias_BNS = _bias(pasts_B, new, keys_BS.shape[1], window)
            return Group(rows_BN, shape, keys_BS.to(self.device), None, bias_BNS.to(self.device))
        assert self.block_tables is not None
        size = self.cache.block_size
        width = -(-max(contexts) // size)
        blocks = self.block_tables[torch.tensor(members), :width]
        full = new == 1 and window is None and min(contexts) == width * size
        bias_BNS = None if full else _bias(pasts_B, new, width * size, window).to(self.device)
        return Group(rows_BN, shape, None, blocks, bias_BNS)

    def _keys(self, members: list[int], width: int) -> Tensor:
        """Rows of each member's parent, then its own, then any."""
        rows_BS = torch.zeros(len(members), width, dtype=torch.int64)
        for i, b in enumerate(members):
            own = torch.arange(self.starts[b], self.starts[b + 1])
            parent = self.parents[b]
            past = own[:0] if parent < 0 else torch.arange(self.starts[parent], self.starts[parent + 1])
            rows_BS[i, : self.context_lengths[b]] = torch.cat((past, own))
        return rows_BS


def _picked(x_T: Tensor, rows: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    picked = x_T if rows is None else x_T.index_select(0, rows.flatten())
    return picked.reshape(*shape, *x_T.shape[1:])


def _add(sums_T: Tensor, rows: Tensor | None, x_BN: Tensor) -> None:
    flat = x_BN.flatten(0, 1).to(sums_T.dtype)
    if rows is None:
        sums_T += flat
    else:
        sums_T.index_add_(0, rows.flatten(), flat)


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
