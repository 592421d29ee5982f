"""Supervised fine-tuning: make the given answers likelier.

Token mean:    L = -Σ_i w_i Σ_t m_it log π(y_it | y_i<t, x_i) / Σ_i w_i Σ_t m_it
Sequence mean: L = -Σ_i w_i [Σ_t m_it log π(y_it | ·) / Σ_t m_it] / Σ_i w_i
(w group weights, m token masks; both sums in the denominators run over the whole optimizer step.) Token mean is what
most trainers call SFT; sequence mean keeps long answers from drowning short ones, which matters with twenty
corrections. Pure functions of log-probs and streams; knows no model.
"""

from __future__ import annotations

from torch import Tensor

from tutee.train.batch import Batch, Totals
from tutee.train.metrics import Metrics


def token_mean_loss(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood a token, over every counted token of every group.

    Args:
        logprob_N: log-probs of `batch.targets_N` under the policy, float32.
    """
    weight_N = batch.mask_N * batch.weight_E[batch.example_N]
    loss = -(weight_N * logprob_N).sum() / totals.tokens
    return loss, Metrics.ratio("train_loss", loss.detach() * totals.tokens, totals.tokens)


def sequence_mean_loss(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
    """Mean token NLL of each single, then the weighted mean over the step's groups (pairs in the batch add nothing
    here)."""
    nll_E = -batch.sum_by_example(batch.mask_N * logprob_N) / batch.sum_by_example(batch.mask_N)
    weight_S, nll_S = batch.weight_E[batch.singles_S], nll_E[batch.singles_S]
    loss = (weight_S * nll_S).sum() / totals.groups
    return loss, Metrics.ratio("sft_loss", (weight_S * nll_S).sum().detach(), weight_S.sum())
