"""Direct preference optimisation: make the chosen answer likelier than the rejected one, relative to a reference.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7:
    L = -log σ(β [log π(y_w|x)/π_ref(y_w|x) - log π(y_l|x)/π_ref(y_l|x)])
with log-probs summed over the answer's tokens. Label smoothing ε (conservative DPO, Mitchell 2023) says that a share
ε of the labels is wrong. Knows no model: what scores the reference is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tutee.train.batch import Batch, Group, Totals
from tutee.train.metrics import Metrics


def dpo_loss(
    logprob_N: Tensor,
    batch: Batch,
    totals: Totals,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """DPO over the batch's pairs, each times its group's weight, divided by the step's sum of group weights.

    Args:
        logprob_N: log-probs of `batch.targets_N` under the policy, float32.
        beta: strength of the tie to the reference, in 1/nats of log-ratio.
        sft_weight: times the chosen answer's mean token NLL, added to each pair's loss (Pang et al. 2024, arXiv
            2404.19733, equation 1); keeps the chosen answer itself from becoming less likely.

    Raises:
        ValueError: a pair has no reference log-probs.
    """
    # Differences are summed, not sums subtracted: equal policies then give exactly zero.
    ratio_E = batch.sum_by_example(batch.mask_N * (logprob_N - batch.reference_N))
    if torch.isnan(batch.sum_by_example(batch.reference_N)[batch.pairs_P2]).any():
        raise ValueError("DPO needs the reference log-probs of every pair")
    chosen_P, rejected_P = ratio_E[batch.pairs_P2[:, 0]], ratio_E[batch.pairs_P2[:, 1]]
    margin_P = beta * (chosen_P - rejected_P)
    loss_P = -(1 - label_smoothing) * logsigmoid(margin_P) - label_smoothing * logsigmoid(-margin_P)
    if sft_weight:
        nll_E = -batch.sum_by_example(batch.mask_N * logprob_N) / batch.sum_by_example(batch.mask_N)
        loss_P = loss_P + sft_weight * nll_E[batch.pairs_P2[:, 0]]
    weight_P = batch.weight_E[batch.pairs_P2[:, 0]]
    total = (weight_P * loss_P).sum()
    with torch.no_grad():
        weight = weight_P.sum()
        metrics = Metrics.ratio("dpo_loss", total, weight)
        metrics += Metrics.ratio("reward_margin", (weight_P * margin_P).sum(), weight)
        metrics += Metrics.ratio("reward_accuracy", (weight_P * (margin_P > 0)).sum(), weight)
        metrics += Metrics.ratio("chosen_log_ratio", (weight_P * chosen_P).sum(), weight)
        metrics += Metrics.ratio("rejected_log_ratio", (weight_P * rejected_P).sum(), weight)
    return total / totals.groups, metrics


def with_references(groups: Sequence[Group], score: Callable[[Sequence[Sequence[int]]], list[Tensor]]) -> list[Group]:
    """The groups with reference log-probs on the ranked and the rated examples that lack them.

    Args:
        score: log-probs of tokens[1:] of each sequence under the reference (`Trainer.score` before the first step).
    """
    missing = [e for group in groups if _compared(group) for e in group.examples if e.reference_logprobs is None]
    scored = iter(score([example.tokens for example in missing])) if missing else iter(())
    out = []
    for group in groups:
        examples = group.examples
        if _compared(group):
            examples = tuple(
                replace(e, reference_logprobs=(0.0, *next(scored).tolist())) if e.reference_logprobs is None else e
                for e in examples
            )
        out.append(replace(group, examples=examples))
    return out


def _compared(group: Group) -> bool:
    return group.ranks is not None or group.label is not None
