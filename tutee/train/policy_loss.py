"""The clipped policy loss: one function under GRPO, RLOO, PPO and on-policy distillation.

For a token t of answer i, with π the policy now, π_old the policy that the update started from, A its advantage:

    ρ_it = exp(log π(y_it) - log π_old(y_it))                                       ratio of a token, or
    ρ_i  = exp(1/|y_i| Σ_t [log π(y_it) - log π_old(y_it)])                         of the whole answer (GSPO)
    L_it = -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A)                              Schulman et al. 2017, equation 7
    L_it = min(L_it, -c A)  where A < 0                                             dual clip, Ye et al. 2020
    L    = Σ L_it / tokens  |  1/n Σ_i 1/|y_i| Σ_t L_it  |  Σ L_it / (n · constant)

The three denominators are those of DAPO (token), of GRPO (sequence) and of Dr. GRPO (constant); all are sums over the
whole optimizer step, whatever its microbatches. Papers: PPO arXiv 1707.06347, dual clip 1912.09729, GRPO 2402.03300,
DAPO 2503.14476 (clip-higher, token mean), Dr. GRPO 2503.20783, GSPO 2507.18071.

The tie to a reference, β KL, is added a token at a time, with l = log π - log π_ref:

    k1 = l        k2 = l²/2        k3 = exp(-l) - 1 + l                             Schulman 2020, "Approximating KL"

k1 and k3 are unbiased, k3 never negative. Added as they are they have the wrong gradient (k1: zero, k3: that of
KL(π_ref ‖ π)), so they are multiplied by the token's ratio, through which the missing part flows (DeepSeek-V3.2, arXiv
2512.02556, equation 7). k2 has the gradient of KL(π ‖ π_ref) as it is. `corrected_kl=False` gives GRPO's original k3.
None of them sees that a token also decides which states follow; only a KL inside the reward does (`ppo.py`).

Off-policy data: the behaviour policy μ that drew the tokens may be older than π_old. `importance_weights` says by how
much; they multiply the advantages, so this loss needs no third policy. Pure functions of log-probs and streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tutee.train.batch import Batch, Totals, told
from tutee.train.metrics import Metrics
from tutee.train.options import require

Denominator = Literal["token", "sequence", "constant"]
KlEstimator = Literal["k1", "k2", "k3"]

MOST_LOG_RATIO = 20.0
"""Log-ratios are cut here, so that one absurd token gives a large number and not infinity."""


@dataclass(frozen=True, slots=True)
class PolicyLossConfig:
    """Every choice of the loss above. The defaults are DAPO's, without its KL (β = 0)."""

    clip_low: float = 0.2
    """A token may become less likely by this share before its gradient ends."""
    clip_high: float = 0.28
    """A token may become likelier by this share before its gradient ends."""
    dual_clip: float | None = None
    """c > 1: a bound on the loss of bad tokens that became likelier."""
    ratio: Literal["token", "sequence"] = "token"
    """Clip every token, or the whole answer (GSPO)."""
    denominator: Denominator = "token"
    """What the sum is divided by: tokens, answers, or a constant an answer."""
    constant: float | None = None
    """Tokens an answer is divided by when the denominator is "constant"; usually the most it may have."""
    kl: float = 0.0
    """β, in reward a nat."""
    kl_estimator: KlEstimator = "k3"
    """How KL is estimated from the tokens that were drawn."""
    corrected_kl: bool = True
    """Times the ratio, which makes the gradient that of the KL."""

    def __post_init__(self) -> None:
        require(0 <= self.clip_low <= 1, "clip_low", "'clip_low' must be in [0, 1].")
        require(self.clip_high >= 0, "clip_high", "'clip_high' must not be negative.")
        require(self.dual_clip is None or self.dual_clip > 1, "dual_clip", "'dual_clip' must be above 1.")
        require(self.ratio in ("token", "sequence"), "ratio", "'ratio' is token or sequence.")
        known = ("token", "sequence", "constant")
        require(self.denominator in known, "denominator", f"'denominator' is one of {', '.join(known)}.")
        constant = self.denominator == "constant"
        require((self.constant is not None) == constant, "constant", "'constant' goes with the constant denominator.")
        require(self.constant is None or self.constant > 0, "constant", "'constant' must be above 0.")
        require(self.kl >= 0, "kl", "'kl' must not be negative.")
        require(self.kl_estimator in ("k1", "k2", "k3"), "kl_estimator", "'kl_estimator' is k1, k2 or k3.")
        require(
            self.corrected_kl or self.kl_estimator != "k1",
            "corrected_kl",
            "An uncorrected k1 has no gradient on average; use k2 or k3, or leave 'corrected_kl' on.",
        )


def policy_loss(
    logprob_N: Tensor, batch: Batch, totals: Totals, config: PolicyLossConfig, *, unmoved: bool = False
) -> tuple[Tensor, Metrics]:
    """The loss over the batch's rollouts (examples with advantages); tokens of other examples count nothing here.

    Args:
        logprob_N: log-probs of `batch.targets_N` under the policy, float32. `batch.behaviour_N` are those under π_old.
        unmoved: the policy has not learned since it drew these answers, so π_old is π itself, however much the
            sampler's rounding differs from ours.

    Raises:
        ValueError: a rollout without the log-probs of π_old, or without those of the reference when β > 0.
    """
    rollout_N = ~torch.isnan(batch.advantage_N)
    weight_N = batch.mask_N * batch.weight_E[batch.example_N] * rollout_N
    advantage_N = torch.where(rollout_N, batch.advantage_N, 0.0)
    old_N = logprob_N.detach() if unmoved else batch.behaviour_N
    log_ratio_N = _log_ratio(logprob_N, old_N, batch, rollout_N, config)
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(1 - config.clip_low, 1 + config.clip_high)
    loss_N = torch.maximum(-ratio_N * advantage_N, -clipped_N * advantage_N)
    if config.dual_clip is not None:
        loss_N = torch.where(advantage_N < 0, torch.minimum(loss_N, -config.dual_clip * advantage_N), loss_N)
    if config.kl:
        loss_N = loss_N + config.kl * kl_terms(logprob_N, batch.reference_N, ratio_N, rollout_N, config)
    total = aggregate(loss_N, weight_N, batch, totals, config.denominator, config.constant)
    return total, _metrics(logprob_N, batch, weight_N, rollout_N, ratio_N, clipped_N, advantage_N)


def _log_ratio(logprob_N: Tensor, old_N: Tensor, batch: Batch, rollout_N: Tensor, config: PolicyLossConfig) -> Tensor:
    if told(torch.isnan(old_N) & rollout_N):
        raise ValueError("a rollout has no log-probs of the policy that the update starts from")
    log_ratio_N = torch.where(rollout_N, logprob_N - old_N.nan_to_num(), 0.0)
    if config.ratio == "sequence":
        counted_E = batch.sum_by_example(batch.mask_N).clamp_min(1e-9)
        mean_E = batch.sum_by_example(batch.mask_N * log_ratio_N) / counted_E
        log_ratio_N = mean_E[batch.example_N]
    return log_ratio_N.clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)


def kl_terms(
    logprob_N: Tensor, reference_N: Tensor, ratio_N: Tensor, rollout_N: Tensor, config: PolicyLossConfig
) -> Tensor:
    """What one token adds for β = 1 [N]; 0 for tokens that are no rollout's."""
    if told(torch.isnan(reference_N) & rollout_N):
        raise ValueError("a rollout has no reference log-probs, and the loss ties the policy to a reference")
    difference_N = torch.where(rollout_N, logprob_N - reference_N.nan_to_num(), 0.0)
    difference_N = difference_N.clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)
    if config.kl_estimator == "k2":
        return difference_N**2 / 2
    term_N = difference_N if config.kl_estimator == "k1" else torch.expm1(-difference_N) + difference_N
    return term_N * ratio_N if config.corrected_kl else term_N


def aggregate(
    value_N: Tensor, weight_N: Tensor, batch: Batch, totals: Totals, denominator: Denominator, constant: float | None
) -> Tensor:
    """A step's share of a per-token value over its rollouts, by one of the three denominators."""
    rollouts = totals.rollouts or 1.0  # a step may hold only examples to imitate: then this is 0, not 0 / 0
    if denominator == "token":
        return (weight_N * value_N).sum() / (totals.rollout_tokens or 1.0)
    if denominator == "constant":
        assert constant is not None
        return (weight_N * value_N).sum() / (rollouts * constant)
    length_E = batch.sum_by_example(batch.mask_N).clamp_min(1e-9)
    return (weight_N * value_N / length_E[batch.example_N]).sum() / rollouts


@torch.no_grad()
def _metrics(
    logprob_N: Tensor,
    batch: Batch,
    weight_N: Tensor,
    rollout_N: Tensor,
    ratio_N: Tensor,
    clipped_N: Tensor,
    advantage_N: Tensor,
) -> Metrics:
    """Clip fraction (tokens whose gradient the clip cut off), k3 and |log-ratio| to π_old, k3 and k1 to a reference.

    All a token, over the step's rollout tokens.
    """
    weight = weight_N.sum()
    cut_N = -clipped_N * advantage_N > -ratio_N * advantage_N
    log_ratio_N = torch.where(rollout_N, logprob_N - batch.behaviour_N.nan_to_num(), 0.0)
    moved_N = torch.expm1(log_ratio_N.clamp(max=MOST_LOG_RATIO)) - log_ratio_N
    metrics = Metrics.ratio("clip_fraction", (weight_N * cut_N).sum(), weight)
    metrics += Metrics.ratio("ratio", (weight_N * ratio_N).sum(), weight)
    metrics += Metrics.ratio("kl_to_old", (weight_N * moved_N).sum(), weight)
    metrics += Metrics.ratio("log_ratio", (weight_N * log_ratio_N.abs()).sum(), weight)
    known_N = rollout_N & ~torch.isnan(batch.reference_N)
    difference_N = torch.where(known_N, logprob_N - batch.reference_N.nan_to_num(), 0.0)
    k3_N = torch.expm1(-difference_N.clamp(min=-MOST_LOG_RATIO)) + difference_N
    metrics += Metrics.ratio("kl_k3", (weight_N * known_N * k3_N).sum(), (weight_N * known_N).sum())
    return metrics + Metrics.ratio("kl_k1", (weight_N * difference_N).sum(), (weight_N * known_N).sum())


def importance_weights(old: Tensor, behaviour: Tensor, most: float, per_sequence: bool = False) -> Tensor:
    """min(π_old / μ, most) for each token of one answer, or of the answer as a whole: what off-policy advantages are
    multiplied by.

    Truncated importance sampling (Ionides 2008; for language models Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy training"): a little bias for a bounded variance. 1 wherever μ is π_old.

    Args:
        old, behaviour: log-probs of the answer's tokens [T].
    """
    difference_T = (old - behaviour).clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)
    if per_sequence:
        difference_T = difference_T.sum().clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO).expand_as(old)
    return difference_T.exp().clamp_max(most)
