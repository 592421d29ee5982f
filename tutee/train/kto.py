"""KTO: learning from thumbs, each on its own, without pairs.

Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8. With the log-ratio of an answer, summed over its tokens,
    r = log π(y|x) - log π_ref(y|x)
    L = λ_D [1 - σ(β (r - z))]   for an answer that somebody liked
    L = λ_U [1 - σ(β (z - r))]   for one that somebody disliked
z is how far the policy as a whole has moved, KL(π ‖ π_ref), estimated without a gradient on answers to *other* prompts,
in the order of the file:
    z = max(0, mean_i [log π(y_{i+1}|x_i) - log π_ref(y_{i+1}|x_i)])
So each row carries, beside its own answer, the next row's answer to its prompt. `with_kl` measures those under the
policy before a step and hands z to the loss as a number that never leaves the device; z is of the whole step, so that
its microbatches and ranks share one. With `kl=False` z is 0, which is APO-zero on single answers (D'Oosterlinck et al.
2024, arXiv 2408.06266).

The paper's rule for unequal numbers of thumbs: λ_D n_D / (λ_U n_U) between 1 and 4/3; `balanced` sets the weights so.
Knows no model: what measures is handed in.
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
from tutee.train.batch import Batch, Example, Group, Loss, Totals, told
from tutee.train.encode import Encoded, encode_answer, encode_rows
from tutee.train.metrics import Metrics
from tutee.train.options import require

Measure = Callable[[Sequence[Group], Loss], Tensor]
"""(groups, loss) -> the loss of the policy as it is now, all groups at once, without a gradient."""


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


def with_kl(groups: Sequence[Group], measure: Measure, config: KtoConfig) -> tuple[list[Group], Loss]:
    """A step's groups without the other answers, and the loss with z, which was measured on those.

    Args:
        groups: all groups of the step, with references.
    """
    others = [Group((group.examples[1],)) for group in groups]
    own = [replace(group, examples=group.examples[:1]) for group in groups]
    return own, partial(kto_loss, config=config, z=measure(others, mean_log_ratio).clamp_min(0))


def mean_log_ratio(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
    """The mean of r over the step's groups: of answers to other prompts, an estimate of KL(π ‖ π_ref)."""
    if told(torch.isnan(batch.reference_N)):
        raise ValueError("KTO needs the reference log-probs of every answer")
    weight_N = batch.mask_N * batch.weight_E[batch.example_N]
    return (weight_N * (logprob_N - batch.reference_N)).sum() / totals.groups, Metrics()


def kto_loss(
    logprob_N: Tensor, batch: Batch, totals: Totals, config: KtoConfig | None = None, z: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """The loss over the batch's rated examples, divided by the step's sum of group weights.

    Raises:
        ValueError: a rated example has no reference log-probs, or there is no z where `config.kl` wants one.
    """
    config = config or KtoConfig()
    if config.kl and z is None:
        raise ValueError("KTO with its KL term needs z (`with_kl`)")
    rated_E = ~torch.isnan(batch.label_E)
    rated_N = rated_E[batch.example_N]
    if told(torch.isnan(batch.reference_N) & rated_N):
        raise ValueError("KTO needs the reference log-probs of every rated example")
    ratio_E = batch.sum_by_example(torch.where(rated_N, batch.mask_N * (logprob_N - batch.reference_N), 0.0))
    z_E = torch.zeros_like(ratio_E) if z is None else z.to(ratio_E.dtype).expand_as(ratio_E)
    liked_E = batch.label_E == 1
    gain_E = config.beta * torch.where(liked_E, ratio_E - z_E, z_E - ratio_E)
    lambda_E = torch.where(liked_E, config.desirable_weight, config.undesirable_weight)
    weight_E = batch.weight_E * rated_E
    total = (weight_E * lambda_E * (1 - gain_E.sigmoid())).sum()
    with torch.no_grad():
        metrics = Metrics.ratio("kto_loss", total, weight_E.sum())
        metrics += Metrics.ratio("kl", (weight_E * z_E).sum(), weight_E.sum())
        for name, kind_E in (("liked", liked_E), ("disliked", ~liked_E)):
            share_E = weight_E * kind_E
            metrics += Metrics.ratio(f"{name}_log_ratio", (share_E * ratio_E).sum(), share_E.sum())
    return total / totals.groups, metrics
