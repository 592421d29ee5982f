"""KTO: learning from thumbs, each on its own, without pairs.

Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8. With the log-ratio of an answer, summed over its tokens,
    r = log π(y|x) - log π_ref(y|x)
    L = λ_D [1 - σ(β (r - z))]   for an answer that somebody liked
    L = λ_U [1 - σ(β (z - r))]   for one that somebody disliked
z is how far the policy as a whole has moved, KL(π ‖ π_ref), estimated without a gradient on answers to *other* prompts:
    z = max(0, mean_i [log π(y_{i+1}|x_i) - log π_ref(y_{i+1}|x_i)])
So each row carries, beside its own answer, the next row's answer to its prompt. `with_kl` scores those under the policy
before a step and writes z into the rows as their value (what was expected of them); z is of the whole step, so that its
microbatches share one. With `kl=False` z is 0, which is APO-zero on single answers (D'Oosterlinck et al. 2024, arXiv
2408.06266).

The paper's rule for unequal numbers of thumbs: λ_D n_D / (λ_U n_U) between 1 and 4/3; `balanced` sets the weights so.
Knows no model: what scores is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tutee.data.training_files import Thumb
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Batch, Example, Group, Loss, Totals
from tutee.train.encode import Encoded, encode_answer, encode_rows
from tutee.train.metrics import Metrics
from tutee.train.options import require

Score = Callable[[Sequence[Sequence[int]]], list[Tensor]]
"""Log-probs of tokens[1:] of each sequence."""


@dataclass(frozen=True, slots=True)
class KtoConfig:
    """KTO's own settings."""

    beta: float = 0.1
    """How soon an answer's log-ratio counts as good enough, in 1/nats."""
    desirable_weight: float = 1.0
    """λ_D, of liked answers."""
    undesirable_weight: float = 1.0
    """λ_U, of disliked answers."""
    balance: bool = True
    """Raise the weight of the rarer kind until both kinds count alike."""
    kl: bool = True
    """Measure answers against how far the policy has moved, not against 0."""

    def __post_init__(self) -> None:
        require(0 < self.beta <= 100, "beta", "'beta' must be above 0 and at most 100.")
        require(self.desirable_weight > 0, "desirable_weight", "'desirable_weight' must be above 0.")
        require(self.undesirable_weight > 0, "undesirable_weight", "'undesirable_weight' must be above 0.")

    def loss(self) -> Loss:
        return partial(kto_loss, config=self)


def kto_groups(model: Pretrained, rows: Sequence[Thumb], config: KtoConfig) -> Encoded:
    """One rated group a row, the rarer label weighted up if wished (raises like `encode_rows`).

    References are still missing, see `dpo.with_references`.

    Raises:
        InvalidInput: also when there is a single row, so that no other answer can measure the policy's movement.
    """

    def groups_of(row: Thumb) -> list[Group] | None:
        example = encode_answer(model, row.prompt, row.answer)
        return None if example is None else [Group((example,), label=row.liked)]

    encoded = encode_rows(model, rows, groups_of)
    groups = balanced(encoded.groups) if config.balance else encoded.groups
    if config.kl:
        groups = with_other_answers(groups, model.config.max_position_embeddings)
    return replace(encoded, groups=groups)


def balanced(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups with the rarer label's weights raised until liked and disliked weigh the same."""
    liked = sum(group.weight for group in groups if group.label)
    disliked = sum(group.weight for group in groups) - liked
    if not liked or not disliked:
        return tuple(groups)
    factor = {True: max(1.0, disliked / liked), False: max(1.0, liked / disliked)}
    return tuple(replace(group, weight=group.weight * factor[bool(group.label)]) for group in groups)


def with_other_answers(groups: Sequence[Group], context: int) -> tuple[Group, ...]:
    """Each group with, as a second example, its prompt followed by the next group's answer (cut to the context)."""
    if len(groups) < 2:
        raise InvalidInput(
            "KTO with its KL term needs two rows at least; give more thumbs, or set kl=false.",
            param="training_file",
            code="not_enough_data",
        )
    out = []
    for group, following in zip(groups, [*groups[1:], groups[0]], strict=True):
        [own], other = group.examples, following.examples[0]
        prompt, answer = own.tokens[: own.prompt_length], other.tokens[other.prompt_length :]
        tokens = (*prompt, *answer)[:context]
        mask = (*(0.0 for _ in prompt), *other.mask[other.prompt_length :])[:context]
        out.append(replace(group, examples=(own, Example(tokens, mask))))
    return tuple(out)


def with_kl(groups: Sequence[Group], score: Score) -> list[Group]:
    """The groups of one step with z as their values, and without the other answers that it was measured on.

    Args:
        groups: all groups of the step, with references.
        score: under the policy as it is now.
    """
    others = [group.examples[1] for group in groups]
    ratios = [_log_ratio(example, now) for example, now in zip(others, score([e.tokens for e in others]), strict=True)]
    z = max(0.0, sum(ratios) / len(ratios))
    own = [group.examples[0] for group in groups]
    known = [replace(example, values=(z,) * len(example.tokens)) for example in own]
    return [replace(group, examples=(example,)) for group, example in zip(groups, known, strict=True)]


def _log_ratio(example: Example, logprobs: Tensor) -> float:
    if example.reference_logprobs is None:
        raise ValueError("KTO needs the reference log-probs of every answer")
    difference = logprobs.cpu() - torch.tensor(example.reference_logprobs[1:])
    return float((torch.tensor(example.mask[1:]) * difference).sum())


def kto_loss(
    logprob_N: Tensor, batch: Batch, totals: Totals, config: KtoConfig | None = None
) -> tuple[Tensor, Metrics]:
    """The loss over the batch's rated examples, divided by the step's sum of group weights.

    Raises:
        ValueError: a rated example has no reference log-probs, or (with `kl`) no z.
    """
    config = config or KtoConfig()
    rated_K = torch.nonzero(~torch.isnan(batch.label_E)).squeeze(1)
    ratio_K = batch.sum_by_example(batch.mask_N * (logprob_N - batch.reference_N))[rated_K]
    z_K = torch.zeros_like(ratio_K)
    if config.kl:
        z_K = (batch.sum_by_example(batch.mask_N * batch.value_N) / batch.sum_by_example(batch.mask_N))[rated_K]
    if torch.isnan(ratio_K.detach() + z_K).any() and not torch.isnan(logprob_N).any():
        raise ValueError("KTO needs the reference log-probs of every rated example, and z (`with_kl`)")
    liked_K = batch.label_E[rated_K] == 1
    gain_K = config.beta * torch.where(liked_K, ratio_K - z_K, z_K - ratio_K)
    lambda_K = torch.where(liked_K, config.desirable_weight, config.undesirable_weight)
    weight_K = batch.weight_E[rated_K]
    total = (weight_K * lambda_K * (1 - gain_K.sigmoid())).sum()
    with torch.no_grad():
        metrics = Metrics.ratio("kto_loss", total, weight_K.sum())
        metrics += Metrics.ratio("kl", (weight_K * z_K).sum(), weight_K.sum())
        for name, kind_K in (("liked", liked_K), ("disliked", ~liked_K)):
            share_K = weight_K * kind_K
            metrics += Metrics.ratio(f"{name}_log_ratio", (share_K * ratio_K).sum(), share_K.sum())
    return total / totals.groups, metrics
