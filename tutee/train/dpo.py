"""Direct preference optimisation: make the chosen answer likelier than the rejected one, relative to a reference policy.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7:
    L = -log σ(β [log π(y_w|x)/π_ref(y_w|x) - log π(y_l|x)/π_ref(y_l|x)])
with log-probs summed over the answer's tokens. Label smoothing ε (conservative DPO, Mitchell 2023) says that a share ε of
the labels is wrong. Pure function of log-probs and streams; knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tutee.train.batch import Batch, Totals
from tutee.train.metrics import Metrics


def dpo_loss(
    logprob_N: Tensor, batch: Batch, totals: Totals, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> tuple[Tensor, Metrics]:
    """DPO over the batch's pairs, each times its group's weight, divided by the step's sum of group weights.

    Args:
        logprob_N: log-probs of `batch.targets_N` under the policy, float32. `batch.reference_N` must be there.
        beta: strength of the tie to the reference, in 1/nats of log-ratio.
    """
    if batch.reference_N is None:
        raise ValueError("DPO needs reference log-probs on every example")
    # Differences are summed, not sums subtracted: equal policies then give exactly zero.
    ratio_E = batch.sum_by_example(batch.mask_N * (logprob_N - batch.reference_N))
    chosen_P, rejected_P = ratio_E[batch.pairs_P2[:, 0]], ratio_E[batch.pairs_P2[:, 1]]
    margin_P = beta * (chosen_P - rejected_P)
    loss_P = -(1 - label_smoothing) * logsigmoid(margin_P) - label_smoothing * logsigmoid(-margin_P)
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
