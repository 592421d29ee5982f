"""One forward pass over scheduled sequences, and the sampling of their next tokens.

Knows the model, the cache's tensors and how a batch is laid out; not which sequences there are (`scheduler.py`) nor
what becomes of their tokens (`engine.py`). Where a device has its own way to do a step, it goes here.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tutee.engine import drawing, sampler
from tutee.engine.batch import make_batch
from tutee.engine.blocks import SCRATCH_BLOCK
from tutee.engine.masks import MaskThread, Pending
from tutee.engine.readout import read
from tutee.engine.sampler import Sampled, SamplerState
from tutee.engine.scheduler import Scheduled
from tutee.engine.sequence import Sequence
from tutee.errors import Unavailable
from tutee.model.decoder import Decoder
from tutee.model.integers import Precision
from tutee.model.kv_cache import KVCache
from tutee.model.pretrained import Pretrained
from tutee.model.served import Served

if TYPE_CHECKING:
    from tutee.engine.cuda_graphs import DecodeGraphs


class NotFinite(Unavailable):
    """The weights behind these sequences gave NaN or infinity."""

    def __init__(self, sequences: list[Sequence]) -> None:
        names = ", ".join(sorted({sequence.version.name for sequence in sequences}))
        super().__init__(f"The version {names} gave numbers that are not finite.")
        self.sequences = sequences


class Runner:
    """A decoder with its paged cache of `num_blocks` blocks, in a serving precision; `alone`: nobody else uses it."""

    def __init__(
        self,
        model: Pretrained,
        num_blocks: int,
        block_size: int,
        precision: Precision = "bfloat16",
        alone: bool = False,
    ) -> None:
        self._decoder, self._precision = model.decoder, precision
        self._served = Served(model.decoder, precision, num_blocks, block_size, alone)
        self.cache = self._served.cache
        self._masks = MaskThread()
        self._graphs: DecodeGraphs | None = None
        self._logits = torch.empty(0, model.config.vocab_size)
        self._awake = False
        self._wake()

    def prepare(self) -> None:
        """What the next step would do else, and can be done before there is one."""
        self._wake()
        self._served.prepare()

    def sleep(self) -> None:
        """Give back the cache, with what is in it, and copies of the weights, until the next step."""
        self._awake = False
        self._graphs = None
        self._logits = self._logits.new_empty(0, self._logits.shape[1])
        self._served.release()

    def _wake(self) -> None:
        if self._awake:
            return
        self.cache.allocate()
        self._graphs = _decode_graphs(self._decoder, self.cache) if self._precision == "bfloat16" else None
        self._awake = True

    @torch.no_grad()  # Not inference mode: a trainer may share these weights, and what they are prepared into.
    def run(self, work: list[Scheduled]) -> tuple[list[Scheduled], Sampled]:
        """Compute the scheduled tokens; sample for the sequences that have their whole past now.

        Returns:
            The items that were sampled, and their tokens in that order: `1 + len(item.draft)` of each, the first after
            its last true token, the others as if the guessed tokens before them were true.

        Raises:
            NotFinite, Stuck: naming the sequences at fault. Nothing is sampled for the others; the same work can be run
            again.
        """
        self._wake()
        # A recorded step gives logits only: a prompt whose last piece is one token long may want its hidden states.
        if self._graphs is not None and self._graphs.takes(work) and not any(item.sequence.reading for item in work):
            states = [item.sequence.sampler for item in work]
            masks = self._masks.begin(states)
            return work, self._choose(self._graphs.logits(work), states, work, masks)
        batch = make_batch(work, self.cache, self.cache.block_size, self._served.device)
        masks = self._masks.begin(batch.states)
        hidden_TD = self._served.forward(batch.tokens, batch.layout)
        finite_T = _finite_rows(hidden_TD)
        if not bool(finite_T.all()):
            raise NotFinite(batch.owners(~finite_T))
        read(self._served, batch.read(hidden_TD))
        if not batch.sampled:
            return [], Sampled([], [], [])
        sampled_BD = _picked(hidden_TD, batch.sample_rows)
        logits_BV = self._served.logits(sampled_BD, self._room(len(sampled_BD)))
        return batch.sampled, self._choose(logits_BV, batch.states, batch.sampled, masks)

    def _choose(self, logits_BV: Tensor, states: Seq[SamplerState], items: Seq[Scheduled], masks: Pending) -> Sampled:
        rows = [item.sequence for item in items for _ in range(1 + len(item.draft))]
        choice: Sampled = (drawing if self._served.native else sampler).sample(logits_BV, states, masks.result(rows))
        if -1 in choice.tokens:
            bad = [sequence for sequence, token in zip(rows, choice.tokens, strict=True) if token < 0]
            raise NotFinite(list(dict.fromkeys(bad)))
        return choice

    def _room(self, rows: int) -> Tensor | None:
        """Memory for logits, kept from step to step where it saves time: fresh pages cost as much as the sampler."""
        if self._served.native and len(self._logits) < rows:
            self._logits = torch.empty(rows, self._logits.shape[1])
        return self._logits if self._served.native else None

    def clear(self, sequence: Sequence) -> None:
        """Wipe what a sequence may have written in a step that failed, before its blocks get another owner: masked
        reads multiply what they find by zero, and zero times NaN is NaN. Blocks that were full before stay as they are:
        they are finite, and others may share them."""
        first = max(sequence.computed, sequence.reused) // self.cache.block_size
        self.cache.clear([SCRATCH_BLOCK, *sequence.blocks[first:]])


def _decode_graphs(decoder: Decoder, cache: KVCache) -> DecodeGraphs | None:
    """Recorded decode steps where the device has them: CUDA, with the Triton that PyTorch's builds for it bring."""
    if cache.device.type != "cuda":
        return None
    try:
        from tutee.engine.cuda_graphs import DecodeGraphs
    except ImportError:
        return None
    return DecodeGraphs(decoder, cache) if DecodeGraphs.supported(decoder) else None


# On the CPU by NumPy: PyTorch would wake its threads for so little, and wait long for them on a busy machine.
def _finite_rows(hidden_TD: Tensor) -> Tensor:
    if hidden_TD.device.type != "cpu":
        return hidden_TD.isfinite().all(-1)
    return torch.from_numpy(np.isfinite(hidden_TD.numpy()).all(-1))


def _picked(hidden_TD: Tensor, rows_B: Tensor) -> Tensor:
    if hidden_TD.device.type != "cpu":
        return hidden_TD[rows_B]
    return torch.from_numpy(hidden_TD.numpy()[rows_B.numpy()])
