"""A decoder as an engine runs it: in a serving precision, by the C code or by PyTorch, over the cache that fits both.

Knows which code runs where, and that weights as integers are a copy: the decoder's own parameters stay as they are for
whoever trains, scores or exports. Knows nothing of requests.

Axes: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from tutee.model.decoder import Decoder
from tutee.model.head import NativeHead, balance
from tutee.model.integers import Precision, to_integers
from tutee.model.kernels import NativeDecoder
from tutee.model.kv_cache import KVCache, TiledCache
from tutee.model.layout import Layout
from tutee.model.matmul import Projection
from tutee.model.matrix_unit import BLOCK, stamp_of


class Served:
    """The forward pass over a cache of `num_blocks` blocks, and its logits.

    Args:
        precision: "bfloat16" is the decoder as it is, whichever of the two its own precision is.
        alone: nobody else uses the decoder, so its parameters may go once they are packed, in bfloat16.
    """

    def __init__(
        self, decoder: Decoder, precision: Precision, num_blocks: int, block_size: int, alone: bool = False
    ) -> None:
        self.device = next(decoder.parameters()).device
        self._given = decoder
        self._precision = precision
        self._alone = alone
        self._stamp: tuple[int, ...] = ()
        self._native: NativeDecoder | None = None
        self._head: NativeHead | None = None
        self.native = decoder.native is not None and block_size % BLOCK == 0
        """Whether steps run in C; then log-probs are close to what the trainer recomputes, not the same bits."""
        self.cache: KVCache
        if self.native:
            self.cache = TiledCache(decoder.config, num_blocks, block_size)
            self._native = decoder.native if precision == "bfloat16" else decoder.packed(precision)
            if precision != "bfloat16":
                self._head = NativeHead(decoder.head_weight, decoder.model.norm.weight, planes=1)
        else:
            self.cache = KVCache(decoder.config, num_blocks, block_size, decoder.dtype, self.device)
        self.decoder = decoder
        """What PyTorch runs, where C does not."""
        self._head_VD: Tensor | None = None

    @torch.no_grad()
    def prepare(self) -> None:
        """Bring the weights into the order in which they are read, which the first step would do else."""
        if self._native is not None:
            self._native.prepare()
            if self._alone and self._precision == "bfloat16":
                self._given.keep_packed_only()
            self.logits(torch.zeros(1, self._given.config.hidden_size))

    def release(self) -> None:
        """Give back the cache and every copy of the weights; `cache.allocate` before the next step."""
        self.cache.release()
        self._given.release_packed()
        if self._native is not None:
            self._native.release()
        if self._head is not None:
            self._head.release()
        if self.decoder is not self._given:
            self.decoder, self._head_VD, self._stamp = self._given, None, ()

    def forward(self, tokens_T: Tensor, layout: Layout) -> Tensor:
        """Hidden states after the final norm, float32 [T, D]; without a gradient."""
        if self._native is not None:
            return self._native.forward(tokens_T, layout.positions, layout)
        self._renew()
        hidden_TD: Tensor = self.decoder(tokens_T, layout.positions, layout)
        return hidden_TD

    def logits(self, hidden_TD: Tensor, out: Tensor | None = None) -> Tensor:
        """As `Decoder.logits`."""
        if self._head is not None:
            return self._head.logits(hidden_TD, out)
        if self._head_VD is not None:
            return functional.linear(hidden_TD, self._head_VD)
        return self.decoder.logits(hidden_TD, out)

    def _renew(self) -> None:
        """Round the copy's weights again if the decoder's changed."""
        if self._precision == "bfloat16":
            return
        stamp = stamp_of(list(self._given.parameters()))
        if stamp == self._stamp:
            return
        if self.decoder is self._given:
            self.decoder = deepcopy(self._given)
        self.decoder.load_state_dict(self._given.state_dict())
        for module in self.decoder.modules():
            if isinstance(module, Projection):
                _round(module.weight, self._precision)
        weight_VD, norm_D = self._given.head_weight.detach(), self._given.model.norm.weight.detach()
        by_D = balance(weight_VD, norm_D)
        self._head_VD = to_integers(weight_VD * by_D, "int8").floats() / by_D
        self._stamp = stamp


@torch.no_grad()
def _round(weight: nn.Parameter, precision: Precision) -> None:
    weight.copy_(to_integers(weight, precision).floats())
