"""Supervised fine-tuning: make the given answers likelier.

Token mean:    L = -Σ_i w_i Σ_t m_it log π(y_it | y_i<t, x_i) / Σ_i w_i Σ_t m_it
Sequence mean: L = -Σ_i w_i [Σ_t m_it log π(y_it | ·) / Σ_t m_it] / Σ_i w_i
(w group weights, m token masks; both sums in the denominators run over the whole optimizer step.) Token mean is what
most trainers call SFT (Ouyang et al. 2022, arXiv 2203.02155, step 1); sequence mean keeps long answers from drowning
short ones, which matters with twenty corrections. A message of weight 0 is read but not learned. The losses are pure
functions of log-probs and streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from tutee.data.openai_format import Supervised
from tutee.model.layout import Layout
from tutee.model.logprobs import CHUNK
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Batch, Group, Loss, Totals, pack_groups, split_groups
from tutee.train.encode import Encoded, encode_rows, encode_turns, functions_of
from tutee.train.metrics import Metrics
from tutee.train.options import require
from tutee.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class SftConfig:
    """The one choice of SFT."""

    mean: Literal["token", "sequence"] = "token"
    """What is averaged: every token alike, or every answer alike."""

    def __post_init__(self) -> None:
        require(self.mean in ("token", "sequence"), "mean", "'mean' is token or sequence.")

    def loss(self) -> Loss:
        return token_mean_loss if self.mean == "token" else sequence_mean_loss


def sft_groups(model: Pretrained, rows: Sequence[Supervised]) -> Encoded:
    """One group a row: every assistant message of weight ≠ 0 is learned (raises like `encode_rows`)."""

    def groups_of(row: Supervised) -> list[Group] | None:
        examples = encode_turns(model, row.messages, functions_of(row.tools))
        return None if examples is None else [Group((example,)) for example in examples]

    return encode_rows(model, rows, groups_of)


@torch.no_grad()
def token_accuracy(trainer: Trainer, groups: Sequence[Group], token_budget: int) -> float:
    """The share of the tokens to imitate that the policy finds likeliest at their places."""
    decoder, right, counted = trainer.model.decoder, 0.0, 0.0
    for part in split_groups(groups, token_budget):
        batch = pack_groups(part).to(trainer.device)
        layout = Layout.packed(batch.lengths, trainer.lora, trainer.device)
        hidden_TD = decoder(batch.tokens_T, batch.positions_T, layout)
        for start in range(0, len(batch.targets_N), CHUNK):
            rows = slice(start, start + CHUNK)
            # Not `decoder.logits`: its packed copy of the head would be of weights that still learn.
            guess_C = linear(hidden_TD[batch.sources_N[rows]], decoder.head_weight).argmax(-1)
            right += float((batch.mask_N[rows] * (guess_C == batch.targets_N[rows])).sum())
        counted += float(batch.mask_N.sum())
    return right / max(1.0, counted)


def token_mean_loss(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood a token, over every counted token of every group.

    Args:
        logprob_N: log-probs of `batch.targets_N` under the policy, float32.
    """
    weight_N = batch.mask_N * batch.weight_E[batch.example_N]
    loss = -(weight_N * logprob_N).sum() / totals.tokens
    return loss, Metrics.ratio("train_loss", loss.detach() * totals.tokens, totals.tokens)


def sequence_mean_loss(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
    """Mean token NLL of each example to imitate, then the weighted mean over the step's groups (ranked examples in the
    batch add nothing here)."""
    nll_E = -batch.sum_by_example(batch.mask_N * logprob_N) / batch.sum_by_example(batch.mask_N)
    weight_S, nll_S = batch.weight_E[batch.singles_S], nll_E[batch.singles_S]
    loss = (weight_S * nll_S).sum() / totals.groups
    return loss, Metrics.ratio("sft_loss", (weight_S * nll_S).sum().detach(), weight_S.sum())
