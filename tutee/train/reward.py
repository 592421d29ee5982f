"""Reward models: a head on the hidden states learns to score what people preferred above what they did not.

Bradley & Terry 1952; Stiennon et al. 2020 (arXiv 2009.01325); with margins, Llama 2 (arXiv 2307.09288, equation 2):
    P(a ≻ b) = σ(s_a - s_b)
    L = -t log σ(s_a - s_b - m) - (1 - t) log σ(s_b - s_a)
t is 1, or 1/2 where people saw no difference (then m is 0); m is how much better they said a is, in nats. All K(K-1)/2
pairs of a ranking of K answers stand in one batch element, each of weight 1/that, so that an answer passes through the
network once and a prompt with many answers counts no more than another (Ouyang et al. 2022, arXiv 2203.02155, §3.5).
Only differences of scores are learned; `centre` adds c (s_a + s_b)², which keeps their sum near 0 (Eisenstein et al.
2023, arXiv 2312.09244).

The score is read at the answer's last token, in training and after: an example ends with it, so there is no padding to
mistake for it. The loss is a function of the head's values on all rows; `reward_model.py` keeps and uses the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tutee.data.training_files import Ranking
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Batch, Group, Loss, Totals
from tutee.train.encode import Encoded, encode_answer, encode_rows
from tutee.train.metrics import Metrics
from tutee.train.options import require


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """The reward loss's own settings."""

    margins: bool = True
    """Demand the margins that the data gives."""
    centre: float = 0.01
    """Times the squared sum of the two scores: keeps scores near 0."""
    probed: bool = False
    """Begin with the head that predicts the pairs best from the untrained network's states, not with a random one."""

    def __post_init__(self) -> None:
        require(0 <= self.centre <= 1, "centre", "'centre' must be between 0 and 1.")

    def loss(self) -> Loss:
        return partial(reward_loss, config=self)


def reward_groups(model: Pretrained, rows: Sequence[Ranking]) -> Encoded:
    """One ranked group a row (raises like `encode_rows`)."""

    def groups_of(row: Ranking) -> list[Group] | None:
        encoded = [encode_answer(model, row.prompt, answer) for answer in row.answers]
        examples = tuple(example for example in encoded if example is not None)
        if len(examples) < len(encoded):
            return None
        return [Group(examples, ranks=row.ranks, margin=row.margin)]

    return encode_rows(model, rows, groups_of)


def reward_loss(
    value_T: Tensor, batch: Batch, totals: Totals, config: RewardConfig | None = None
) -> tuple[Tensor, Metrics]:
    """The loss over the batch's pairs, each times its weight, divided by the step's sum of group weights.

    Args:
        value_T: the head's output on every row of the batch, float32.
    """
    config = config or RewardConfig()
    score_P2 = value_T[batch.last_E][batch.pairs_P2]
    difference_P, target_P = score_P2[:, 0] - score_P2[:, 1], batch.target_P
    margin_P = batch.margin_P if config.margins else torch.zeros_like(batch.margin_P)
    loss_P = -target_P * logsigmoid(difference_P - margin_P) - (1 - target_P) * logsigmoid(-difference_P)
    loss_P = loss_P + config.centre * score_P2.sum(1) ** 2
    total = (batch.pair_weight_P * loss_P).sum()
    with torch.no_grad():
        weight_P = batch.pair_weight_P
        decided_P = weight_P * (target_P == 1)
        metrics = Metrics.ratio("reward_loss", total, weight_P.sum())
        metrics += Metrics.ratio("reward_accuracy", (decided_P * (difference_P > 0)).sum(), decided_P.sum())
        metrics += Metrics.ratio("reward_margin", (decided_P * difference_P).sum(), decided_P.sum())
        metrics += Metrics.ratio("reward_mean", (weight_P * score_P2.mean(1)).sum(), weight_P.sum())
    return total / totals.groups, metrics
