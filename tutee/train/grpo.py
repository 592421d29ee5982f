"""GRPO and its relatives: answers to one prompt are judged against each other, so no critic is needed.

For a prompt x, answers y_1 … y_K are drawn from π_old and rewarded r_1 … r_K. Every token of answer i gets the same
advantage,

    A_i = (r_i - mean r) / std r                        `baseline=mean, scale=group`        GRPO (arXiv 2402.03300)
    A_i = r_i - mean r                                  `scale=none`                        Dr. GRPO (2503.20783)
    A_i = r_i - mean of the other r                     `baseline=leave_one_out`            RLOO (2402.14740)

and the policy loss of `policy_loss.py` is minimised: token ratios or one for the answer (GSPO, 2507.18071), its clip
symmetric or higher above (DAPO, 2503.14476), its denominator tokens, answers or a constant. They are settings of one
loss; `variant` names the published combinations, `effective_loss` writes out what a configuration computes.

With one update a step the loss is about 0 by construction (advantages of a group sum to 0 and every ratio is 1); its
gradient is not. Look at the reward, the gradient norm and the share of groups without variance instead.

Off-policy answers carry the log-probs of the policy μ that drew them; `most_weight` turns on truncated importance
weights min(π_old / μ, most_weight), for which the answers are scored once more before the update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.train.advantages import Baseline, Scale, group_advantages
from tutee.train.batch import Batch, Group, Totals
from tutee.train.metrics import Metrics
from tutee.train.options import read_options, require
from tutee.train.policy_loss import PolicyLossConfig, importance_weights, policy_loss
from tutee.train.reinforce import ReinforceConfig, update
from tutee.train.rollout import Reference, Rollout, grouped, policy_logprobs, sequence_kl
from tutee.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class GrpoConfig(PolicyLossConfig):
    """The policy loss, and where its advantages come from."""

    baseline: Baseline = "mean"
    """What an answer's reward is compared with."""
    scale: Scale = "group"
    """What advantages are divided by."""
    most_weight: float | None = None
    """Truncation of importance weights π_old / μ; None: the answers are on-policy, or as good as."""
    weights: Literal["token", "sequence"] = "token"
    """Importance weights a token, or one for the answer."""

    def __post_init__(self) -> None:
        PolicyLossConfig.__post_init__(self)
        known = ("mean", "leave_one_out", "none")
        require(self.baseline in known, "baseline", f"'baseline' is one of {', '.join(known)}.")
        require(self.scale in ("group", "batch", "none"), "scale", "'scale' is group, batch or none.")
        require(self.most_weight is None or self.most_weight > 0, "most_weight", "'most_weight' must be above 0.")
        require(self.weights in ("token", "sequence"), "weights", "'weights' is token or sequence.")


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"clip_high": 0.2, "denominator": "sequence", "kl": 0.04, "corrected_kl": False},
    "dr_grpo": {"clip_high": 0.2, "denominator": "constant", "scale": "none"},
    "dapo": {"clip_high": 0.28, "denominator": "token"},
    "gspo": {"clip_low": 3e-4, "clip_high": 4e-4, "ratio": "sequence", "denominator": "sequence"},
    "rloo": {"clip_high": 0.2, "denominator": "token", "baseline": "leave_one_out", "scale": "none"},
}
"""As published. DAPO's dynamic sampling and overlong penalty are `RolloutConfig.resample` and `LengthTerm`."""


def variant(name: str, changes: Mapping[str, Any] | None = None, max_tokens: int | None = None) -> GrpoConfig:
    """The published combination `name`, with `changes` over it.

    Args:
        max_tokens: what Dr. GRPO divides by, unless `changes` says so itself.

    Raises:
        InvalidInput: no such variant, or a setting that does not exist or fit.
    """
    if name not in VARIANTS:
        raise InvalidInput(
            f"'variant' is {name!r}; it must be one of {', '.join(VARIANTS)}.", param="variant", code="invalid_value"
        )
    raw = {**VARIANTS[name], **(changes or {})}
    if raw.get("denominator") == "constant" and "constant" not in raw and max_tokens is not None:
        raw["constant"] = float(max_tokens)
    return read_options(GrpoConfig, raw)


def effective_loss(config: GrpoConfig) -> str:
    """What is computed, in one line."""
    ratio = "ρ_t" if config.ratio == "token" else "ρ_answer"
    baseline = {"mean": "r - mean", "leave_one_out": "r - mean of others", "none": "r"}[config.baseline]
    scale = {"group": f"({baseline}) / std", "batch": f"({baseline}) / batch std", "none": baseline}[config.scale]
    parts = [f"-min({ratio} A, clip({ratio}, {1 - config.clip_low:g}, {1 + config.clip_high:g}) A)"]
    if config.dual_clip is not None:
        parts.append(f"at most {config.dual_clip:g} |A| where A < 0")
    if config.kl:
        corrected = " · ρ" if config.corrected_kl and config.kl_estimator != "k2" else ""
        parts.append(f"+ {config.kl:g} {config.kl_estimator}(π, π_ref){corrected}")
    over = {"token": "tokens", "sequence": "mean of answers", "constant": f"answers · {config.constant}"}
    weight = "" if config.most_weight is None else f", A times min(π_old/μ, {config.most_weight:g}) a {config.weights}"
    return f"{' '.join(parts)}, over {over[config.denominator]}; A = {scale}{weight}"


def make_groups(
    rollouts: Sequence[Rollout],
    config: GrpoConfig,
    old: Sequence[Tensor] | None = None,
    reference: Sequence[Tensor] | None = None,
) -> list[Group]:
    """One group a prompt, its answers with advantages, log-probs of π_old and of the reference.

    Args:
        old: log-probs of each answer's tokens under π_old; None: those that it was drawn with.
        reference: the same under the reference; None: not needed.
    """
    advantage_S = group_advantages(
        [rollout.reward for rollout in rollouts], [r.index for r in rollouts], config.baseline, config.scale
    )
    examples = []
    for i, rollout in enumerate(rollouts):
        drawn_T = torch.tensor(rollout.logprobs)
        old_T = drawn_T if old is None else old[i]
        advantage_T = advantage_S[i].expand(len(drawn_T))
        if config.most_weight is not None:
            per_sequence = config.weights == "sequence"
            advantage_T = advantage_T * importance_weights(old_T, drawn_T, config.most_weight, per_sequence)
        reference_T = None if reference is None else reference[i]
        examples.append(
            rollout.example(behaviour_logprobs=old_T, advantages=advantage_T, reference_logprobs=reference_T)
        )
    return grouped(rollouts, examples)


class Grpo:
    """GRPO at work on one policy: a `reinforce.Learner`.

    Args:
        reference: what KL is measured to, always reported when given; needed when `config.kl` is above 0.
    """

    def __init__(self, trainer: Trainer, config: GrpoConfig, reference: Reference | None = None) -> None:
        require(config.kl == 0 or reference is not None, "kl", "A KL term needs a reference.")
        self.trainer = trainer
        self._config = config
        self._reference = reference

    def learn(
        self, rollouts: Sequence[Rollout], step: int, learning_rate: float, config: ReinforceConfig
    ) -> dict[str, float]:
        """Advantages within groups, then the clipped updates."""
        reference = None if self._reference is None else self._reference.score(rollouts)
        old = None
        if self._config.most_weight is not None:
            old = policy_logprobs(self.trainer, rollouts)
        groups = make_groups(rollouts, self._config, old, reference)

        def loss(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
            return policy_loss(logprob_N, batch, totals, self._config, unmoved=config.updates == 1)

        values = update(self.trainer, groups, loss, step, learning_rate, config)
        if reference is not None:
            values["kl"] = sequence_kl(rollouts, reference)
        return values

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing beyond the policy."""
        return {}, {}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def settings(self) -> dict[str, Any]:
        """The loss and advantages."""
        return {"method": "grpo", **asdict(self._config)}
