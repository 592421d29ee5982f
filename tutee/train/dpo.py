"""Direct preference optimisation: make the chosen answer likelier than the rejected one, relative to a reference.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7. With the log-ratio of an answer, summed over its tokens,
    r = log π(y|x) - log π_ref(y|x),    Δ = r_w - r_l,
    L = -log σ(βΔ)
Everything else that is called DPO changes one of three things, and is a setting here:
  the shape, a function of (r_w, r_l): see `SHAPES`, each with its paper;
  the label: with label smoothing ε a share ε of the votes is wrong (conservative DPO, Mitchell 2023); a tie is a vote
    that is wrong in half of the cases;
  the length: `length_normalised` divides each r by its answer's tokens first (Meng et al. 2024, arXiv 2405.14734, of
    SimPO; the authors of IPO do so too).
`sft_weight` adds the chosen answer's mean token NLL (Pang et al. 2024, arXiv 2404.19733, equation 1), which keeps the
chosen answer itself from becoming less likely. A ranking of K answers is its K(K-1)/2 pairs, each of weight 1/that.

Knows no model: what scores the reference is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tutee.data.openai_format import Preference
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Batch, Group, Loss, Totals, told
from tutee.train.encode import Encoded, encode_answer, encode_rows, functions_of
from tutee.train.metrics import Metrics
from tutee.train.options import require

Shape = Literal["sigmoid", "ipo", "hinge", "robust", "exo", "nca", "bco", "sppo", "apo_zero", "apo_down", "discopop"]
SYMMETRIC = ("sigmoid", "ipo", "hinge")
"""Shapes of a label that may be wrong: their loss is that of both orders, weighted."""


@dataclass(frozen=True, slots=True)
class DpoConfig:
    """DPO's own settings."""

    beta: float = 0.1
    """Strength of the tie to the reference, in 1/nats of log-ratio."""
    shape: Shape = "sigmoid"
    """How the log-ratios of chosen and rejected become a loss."""
    label_smoothing: float = 0.0
    """The share of votes taken to be wrong."""
    length_normalised: bool = False
    """Log-ratios a token instead of an answer; β then wants to be some ten times larger."""
    sft_weight: float = 0.0
    """Times the chosen answer's mean token NLL, added to each pair's loss."""

    def __post_init__(self) -> None:
        require(0 < self.beta <= 100, "beta", "'beta' must be above 0 and at most 100.")
        require(self.shape in SHAPES, "shape", f"'shape' is one of {', '.join(SHAPES)}.")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, "label_smoothing", "'label_smoothing' must be in [0, 0.5).")
        smooth = (*SYMMETRIC, "robust", "exo")
        message = f"'label_smoothing' changes nothing for {self.shape}; it is for {', '.join(smooth)}."
        require(smoothing == 0 or self.shape in smooth, "label_smoothing", message)
        require(self.shape != "exo" or smoothing > 0, "label_smoothing", "'exo' needs a 'label_smoothing' above 0.")
        require(self.sft_weight >= 0, "sft_weight", "'sft_weight' must not be negative.")

    def loss(self) -> Loss:
        return partial(dpo_loss, config=self)


def dpo_groups(model: Pretrained, rows: Sequence[Preference]) -> Encoded:
    """One pair a row (raises like `encode_rows`); references are still missing, see `with_references`."""

    def groups_of(row: Preference) -> list[Group] | None:
        offered, answers = functions_of(row.tools), (row.preferred, row.non_preferred)
        chosen, rejected = (encode_answer(model, row.prompt, answer, offered) for answer in answers)
        return None if chosen is None or rejected is None else [Group.pair(chosen, rejected)]

    return encode_rows(model, rows, groups_of)


def dpo_loss(
    logprob_N: Tensor, batch: Batch, totals: Totals, config: DpoConfig | None = None
) -> tuple[Tensor, Metrics]:
    """The loss over the batch's pairs, each times its weight, divided by the step's sum of group weights.

    Args:
        logprob_N: log-probs of `batch.targets_N` under the policy, float32.

    Raises:
        ValueError: a pair has no reference log-probs.
    """
    config = config or DpoConfig()
    # Differences are summed, not sums subtracted: equal policies then give exactly zero.
    ratio_E = batch.sum_by_example(batch.mask_N * (logprob_N - batch.reference_N))
    if told(torch.isnan(batch.sum_by_example(batch.reference_N)[batch.pairs_P2])):
        raise ValueError("DPO needs the reference log-probs of every pair")
    length_E = batch.sum_by_example(batch.mask_N)
    scores_P2 = (ratio_E / length_E if config.length_normalised else ratio_E)[batch.pairs_P2]
    loss_P = _preference(scores_P2[:, 0], scores_P2[:, 1], batch.target_P, config)
    if config.sft_weight:
        nll_E = -batch.sum_by_example(batch.mask_N * logprob_N) / length_E
        loss_P = loss_P + config.sft_weight * nll_E[batch.pairs_P2[:, 0]]
    total = (batch.pair_weight_P * loss_P).sum()
    return total / totals.groups, _metrics(total, ratio_E[batch.pairs_P2], config.beta * scores_P2, batch)


def _preference(chosen_P: Tensor, rejected_P: Tensor, target_P: Tensor, config: DpoConfig) -> Tensor:
    """The loss of each pair, from the (normalised) log-ratios of its answers."""
    shape = SHAPES[config.shape]
    if config.shape not in SYMMETRIC:
        if told(target_P != 1):
            raise ValueError(f"the shape {config.shape} knows no ties")
        return shape(chosen_P, rejected_P, config.beta, config.label_smoothing)
    right_P = target_P * (1 - config.label_smoothing) + (1 - target_P) * config.label_smoothing
    loss_P = right_P * shape(chosen_P, rejected_P, config.beta, 0.0)
    if right_P.device.type == "cpu" and not told(right_P != 1):
        return loss_P
    return loss_P + (1 - right_P) * shape(rejected_P, chosen_P, config.beta, 0.0)


@torch.no_grad()
def _metrics(total: Tensor, ratio_P2: Tensor, reward_P2: Tensor, batch: Batch) -> Metrics:
    """Log-ratios in nats an answer, margins as the loss sees them."""
    weight_P = batch.pair_weight_P
    weight, margin_P = weight_P.sum(), reward_P2[:, 0] - reward_P2[:, 1]
    metrics = Metrics.ratio("dpo_loss", total, weight)
    metrics += Metrics.ratio("reward_margin", (weight_P * margin_P).sum(), weight)
    metrics += Metrics.ratio("reward_accuracy", (weight_P * (margin_P > 0)).sum(), weight)
    metrics += Metrics.ratio("chosen_log_ratio", (weight_P * ratio_P2[:, 0]).sum(), weight)
    metrics += Metrics.ratio("rejected_log_ratio", (weight_P * ratio_P2[:, 1]).sum(), weight)
    return metrics


def _sigmoid(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """Rafailov et al. 2023, equation 7."""
    return -logsigmoid(beta * (w - r))


def _ipo(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """Azar et al. 2023 (arXiv 2310.12036), equation 17, β in the place of τ: a margin to reach, not to exceed."""
    return (w - r - 1 / (2 * beta)) ** 2


def _hinge(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """Zhao et al. 2023 (arXiv 2305.10425): no pull once the margin is reached."""
    return torch.relu(1 - beta * (w - r))


def _robust(w: Tensor, r: Tensor, beta: float, smoothing: float) -> Tensor:
    """Chowdhury et al. 2024 (arXiv 2403.00409), equation 9: unbiased when a share ε of the votes is flipped."""
    right, wrong = -logsigmoid(beta * (w - r)), -logsigmoid(-beta * (w - r))
    return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)


def _exo(w: Tensor, r: Tensor, beta: float, smoothing: float) -> Tensor:
    """Ji et al. 2024 (arXiv 2402.00856), equation 16: the reverse KL from the policy's choice to the votes'."""
    margin = beta * (w - r)
    chosen = margin.sigmoid() * (logsigmoid(margin) - math.log1p(-smoothing))
    return chosen + (-margin).sigmoid() * (logsigmoid(-margin) - math.log(smoothing))


def _nca(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """Chen et al. 2024 (arXiv 2402.05369): noise contrast of each answer alone."""
    return -logsigmoid(beta * w) - (logsigmoid(-beta * w) + logsigmoid(-beta * r)) / 2


def _bco(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """Jung et al. 2024 (arXiv 2404.04656), without its running shift: two classifications."""
    return -logsigmoid(beta * w) - logsigmoid(-beta * r)


def _sppo(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """Wu et al. 2024 (arXiv 2405.00675), equation 4.7 with hard probabilities."""
    return (w - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2


def _apo_zero(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 7: chosen up, rejected down."""
    return 1 - (beta * w).sigmoid() + (beta * r).sigmoid()


def _apo_down(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """The same, equation 8: both down, the rejected further; for a policy that is already better than the data."""
    return (beta * w).sigmoid() + 1 - (beta * (w - r)).sigmoid()


def _discopop(w: Tensor, r: Tensor, beta: float, _: float) -> Tensor:
    """Lu et al. 2024 (arXiv 2406.08414), equation 5 with τ = .05: logistic below 0, exponential above, a hump at 0."""
    margin = beta * (w - r)
    share = (margin / 0.05).sigmoid()
    # Where the exponential would overflow its share has long been exactly 0, and 0 times infinity is no number.
    return -logsigmoid(margin) * (1 - share) + torch.exp(-margin.clamp_min(-20.0)) * share


SHAPES: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "sigmoid": _sigmoid,
    "ipo": _ipo,
    "hinge": _hinge,
    "robust": _robust,
    "exo": _exo,
    "nca": _nca,
    "bco": _bco,
    "sppo": _sppo,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
}
"""(log-ratio of the chosen, of the rejected, β, ε) -> loss."""


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
