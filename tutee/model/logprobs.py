"""Log-probabilities of tokens: the numbers that the sampler reports and the trainer learns from, by one code path.

Axes: T tokens, C tokens of one chunk, D hidden, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.model import compiled
from tutee.model.decoder import Decoder
from tutee.model.gradients import receiver_of
from tutee.model.layout import Layout
from tutee.model.lora import Lora

CHUNK = 128
"""Rows of logits at a time: large enough for the matrix product, small enough to stay in a CPU's cache."""

LEAST_SHARED = 16
"""Tokens in common from which on it pays to compute them apart."""


def log_softmax(logits_TV: Tensor) -> Tensor:
    """Float32 log-probabilities [T, V]; a row's numbers do not depend on other rows. The engine must use this one."""
    # PyTorch's kernel for the last axis reduces row by row whatever their number; logsumexp's need not.
    return torch.log_softmax(logits_TV.float(), dim=-1)


def token_logprobs(
    decoder: Decoder, hidden_TD: Tensor, targets_T: Tensor, temperature: float = 1.0, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """(log-prob of each target, entropy of each distribution in nats), float32 [T], never whole [T, V] in memory.

    Row t of `hidden_TD` predicts `targets_T[t]`. The log-probs are differentiable, in the hidden states and (when it is
    being trained) the head; the entropy carries no gradient.
    """
    if not temperature > 0:
        raise InvalidInput(f"temperature is {temperature}; it must be above 0.", param="temperature")
    return _TokenLogprobs.apply(hidden_TD, decoder.head_weight, targets_T, decoder, temperature, chunk)  # type: ignore[no-any-return,no-untyped-call]


class _TokenLogprobs(torch.autograd.Function):
    """A log-prob's gradient is (onehot - p) / temperature: its product with the head is one row of [D], taken at once.

    So the backward pass needs no logits, unless the head itself is trained; then they are made again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        targets_T: Tensor,
        decoder: Decoder,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        logprob_T = torch.empty(len(hidden_TD), device=hidden_TD.device)
        entropy_T = torch.empty_like(logprob_T)
        slope_TD = torch.empty_like(hidden_TD) if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(hidden_TD, head_VD, targets_T, slope_TD, logprob_T)
        ctx.decoder, ctx.temperature, ctx.chunk = decoder, temperature, chunk
        ctx.mark_non_differentiable(entropy_T)
        library = _native(decoder, hidden_TD)
        if library is not None:
            inputs = _at(hidden_TD), _at(head_VD), _at(targets_T), ctypes.c_float(temperature)
            library.token_logprobs(*inputs, *_sizes(hidden_TD, head_VD), _at(logprob_T), _at(entropy_T), _at(slope_TD))
            return logprob_T, entropy_T
        head_for_slope = None if slope_TD is None else head_VD.detach().to(decoder.dtype)
        for rows in _chunks(len(hidden_TD), chunk):
            logp_CV = log_softmax(decoder.logits(hidden_TD[rows]).div_(temperature))
            logprob_T[rows] = logp_CV.gather(1, targets_T[rows, None]).squeeze(1)
            p_CV = logp_CV.exp()
            entropy_T[rows] = -torch.linalg.vecdot(p_CV, logp_CV)
            if slope_TD is not None and head_for_slope is not None:
                expected_CD = p_CV.to(decoder.dtype) @ head_for_slope
                slope_TD[rows] = (head_VD[targets_T[rows]] - expected_CD) / temperature
        return logprob_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, head_VD, targets_T, slope_TD, logprob_T = ctx.saved_tensors
        weights_T = gradients[0].contiguous()
        d_hidden = None if slope_TD is None else slope_TD * weights_T[:, None]
        if not ctx.needs_input_grad[1]:
            return d_hidden, None, None, None, None, None
        receiver = receiver_of(head_VD)
        d_head, add = (torch.empty_like(head_VD), False) if receiver is None else receiver.open()
        library = _native(ctx.decoder, hidden_TD)
        if library is not None:
            pull_T = weights_T / ctx.temperature
            logsum_T = (hidden_TD * head_VD[targets_T]).sum(-1) / ctx.temperature - logprob_T
            inputs = _at(hidden_TD), _at(head_VD), _at(logsum_T), _at(weights_T), ctypes.c_float(ctx.temperature)
            library.head_gradient(*inputs, *_sizes(hidden_TD, head_VD), _at(d_head), ctypes.c_int(add))
            d_head.index_add_(0, targets_T, hidden_TD * pull_T[:, None])
        else:
            d_head = d_head if add else d_head.zero_()
            for rows in _chunks(len(hidden_TD), ctx.chunk):
                p_CV = log_softmax(ctx.decoder.logits(hidden_TD[rows]).div_(ctx.temperature)).exp_()
                d_logits_CV = p_CV.mul_(-weights_T[rows, None] / ctx.temperature)
                d_logits_CV.scatter_add_(1, targets_T[rows, None], weights_T[rows, None] / ctx.temperature)
                d_head.addmm_(d_logits_CV.t(), hidden_TD[rows])
        return d_hidden, d_head if receiver is None else None, None, None, None, None


def _native(decoder: Decoder, hidden_TD: Tensor) -> ctypes.CDLL | None:
    """`logprobs.c`, for the fast precision on a CPU that has matrix units, and for one row at least."""
    fits = decoder.dtype == torch.bfloat16 and decoder.head_weight.device.type == "cpu" and len(hidden_TD) > 0
    return compiled.load_amx("logprobs.c") if fits else None


def _at(x: Tensor | None) -> ctypes.c_void_p:
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _sizes(hidden_TD: Tensor, head_VD: Tensor) -> tuple[ctypes.c_long, ...]:
    """Rows, width, vocabulary."""
    return tuple(ctypes.c_long(n) for n in (*hidden_TD.shape, len(head_VD)))


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def score(
    decoder: Decoder,
    sequences: Sequence[Sequence[int]],
    lora: Lora | None = None,
    token_budget: int = 2048,
    temperature: float = 1.0,
) -> list[Tensor]:
    """Log-prob of `tokens[1:]` given the tokens before, for each sequence; float32, no gradient.

    What neighbours have in common at their beginning (two answers to one prompt) is computed once. Packed in batches of
    at most `token_budget` tokens (a longer sequence goes alone), in order of length.
    """
    out: list[Tensor] = [torch.empty(0)] * len(sequences)
    for runs in _packs(_runs(sequences, token_budget), token_budget):
        for run, logprobs in zip(runs, _score(decoder, runs, lora, temperature), strict=True):
            prefix_T, *rest = torch.split(logprobs, run.counts)
            for i, own_T in zip(run.members, rest, strict=True):
                out[i] = torch.cat((prefix_T, own_T)) if run.shared else own_T
    return out


@dataclass(slots=True)
class _Run:
    """Neighbours with the same `shared` first tokens, which are the input of none of them alone."""

    members: list[int]
    sequences: list[Sequence[int]]
    shared: int = 0

    @property
    def counts(self) -> list[int]:
        """Tokens that are scored: of what is shared, then of each member."""
        own = [len(tokens) - max(1, self.shared) for tokens in self.sequences]
        return [max(0, self.shared - 1), *own]

    @property
    def segments(self) -> list[Sequence[int]]:
        """What is computed: the shared tokens, if there are any, and the rest of each, less the last."""
        own = [tokens[self.shared : -1] for tokens in self.sequences]
        return [self.sequences[0][: self.shared], *own] if self.shared else own

    @property
    def tokens(self) -> int:
        return sum(map(len, self.segments))

    def joined(self, i: int, tokens: Sequence[int]) -> _Run | None:
        """The run with one more, if they begin alike far enough."""
        most = min(self.shared or len(self.sequences[0]) - 2, len(tokens) - 2)
        pairs = zip(self.sequences[0][: max(0, most)], tokens, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if shared < max(LEAST_SHARED, self.shared // 2):
            return None
        return _Run([*self.members, i], [*self.sequences, tokens], shared)


def _runs(sequences: Sequence[Sequence[int]], token_budget: int) -> list[_Run]:
    runs: list[_Run] = []
    for i, tokens in enumerate(sequences):
        if len(tokens) > 1:
            joined = runs[-1].joined(i, tokens) if runs else None
            if joined is not None and joined.tokens <= token_budget:
                runs[-1] = joined
            else:
                runs.append(_Run([i], [tokens]))
    return runs


def _packs(runs: list[_Run], token_budget: int) -> Iterator[list[_Run]]:
    """Runs of like size together, as many as the budget holds."""
    pack: list[_Run] = []
    held = 0
    for run in sorted(runs, key=lambda run: run.tokens):
        if pack and held + run.tokens > token_budget:
            yield pack
            pack, held = [], 0
        pack.append(run)
        held += run.tokens
    if pack:
        yield pack


@torch.no_grad()
def _score(decoder: Decoder, runs: Sequence[_Run], lora: Lora | None, temperature: float) -> list[Tensor]:
    """The log-probs of each run, in the order of its `counts`."""
    device = decoder.head_weight.device
    inputs: list[int] = []
    targets: list[int] = []
    sources: list[int] = []
    lengths: list[int] = []
    parents: list[int] = []
    for run in runs:
        parent, prefix = (len(lengths) if run.shared else -1), len(inputs)
        sources += range(prefix, prefix + run.counts[0])
        targets += run.sequences[0][1 : run.shared]
        if run.shared:
            inputs += run.sequences[0][: run.shared]
            lengths.append(run.shared)
            parents.append(-1)
        for tokens in run.sequences:
            own = tokens[run.shared : -1]
            # The last shared row is followed by another token in each.
            sources += [prefix + run.shared - 1] if run.shared else []
            sources += range(len(inputs), len(inputs) + len(own))
            targets += tokens[max(1, run.shared) :]
            inputs += own
            lengths.append(len(own))
            parents.append(parent)
    layout = Layout.packed(lengths, lora, device, parents)
    hidden_TD = decoder(torch.tensor(inputs, device=device), layout.positions, layout)
    if any(run.shared for run in runs):
        hidden_TD = hidden_TD[torch.tensor(sources, device=device)]
    logprob_T, _ = token_logprobs(decoder, hidden_TD, torch.tensor(targets, device=device), temperature)
    return list(torch.split(logprob_T, [sum(run.counts) for run in runs]))
