"""Where sequences begin in a flat row of tokens, and where their keys and values live.

The one argument in which packed training, scoring, prefill and decode differ. Knows the geometry of attention; does not
compute it (`attention.py`).

Axes: T tokens, B sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tutee.model.kv_cache import KVCache
from tutee.model.lora import Lora

Adapters = tuple[tuple[Lora, slice | Tensor], ...]
"""Which rows of [T] go through which adapter; rows that are named by none go through the base alone."""


class Layout:
    """Made by `Layout.packed` or `Layout.cached`; never changed afterwards."""

    cache: KVCache | None
    adapters: Adapters
    starts: tuple[int, ...]

    @classmethod
    def packed(cls, lengths: Sequence[int], lora: Lora | None = None) -> Layout:
        """Sequences laid end to end that see only themselves, with no cache; differentiable.

        Args:
            lengths: tokens of each sequence; their sum is T.
            lora: the adapter for all of them, or None for the base.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    @property
    def positions(self) -> Tensor:
        """Each new token's position in its own sequence, int64 [T]: what `Decoder.forward` usually wants."""
        raise NotImplementedError

    @property
    def last_rows(self) -> Tensor:
        """Row of each sequence's last new token, int64 [B], whose hidden state predicts what comes next."""
        raise NotImplementedError
