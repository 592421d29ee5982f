"""Examples, groups and packed batches: what every loss reads.

An example is one token sequence with streams beside it, one number a token. A group is what one piece of data says: a
single example is to be imitated, two examples are a preference (the first is preferred). A batch is groups laid end
to end, without padding. Knows nothing of chat, of models, or of what a loss does with the streams.

Axes: T tokens of the packed batch, N tokens that the loss counts, E examples, P pairs (groups of two), S singles
(groups of one).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutee.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence. Every stream has one number per token; the number at t is about token t given the tokens before it.

    Args:
        tokens: ids, prompt and answer.
        mask: weight of each token in the loss; 0 for prompts, users and tools. The first token has no past and must
            be 0. reference_logprobs: log-probs of the tokens under the reference policy, in nats; None when the loss
            needs none.
    """

    tokens: tuple[int, ...]
    mask: tuple[float, ...]
    reference_logprobs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        streams = [self.mask] if self.reference_logprobs is None else [self.mask, self.reference_logprobs]
        if any(len(stream) != len(self.tokens) for stream in streams):
            raise ValueError("every stream must be as long as the tokens")
        if self.mask and self.mask[0] != 0:
            raise ValueError("the first token has nothing before it, so it cannot be learned")

    @property
    def counted(self) -> int:
        """How many tokens the loss counts."""
        return sum(weight != 0 for weight in self.mask)


@dataclass(frozen=True, slots=True)
class Group:
    """One piece of data: (answer,) to imitate, or (chosen, rejected) to prefer. `weight` scales its loss."""

    examples: tuple[Example, ...]
    weight: float = 1.0

    @property
    def num_tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all groups of one optimizer step: the denominators, so that splitting a step never changes its
    gradient."""

    groups: float
    """Sum of group weights."""
    tokens: float
    """Sum of mask weights, each times its group's weight."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows packed end to end. Segments attend only to themselves; positions restart at 0 in each."""

    tokens_T: Tensor
    positions_T: Tensor
    lengths: tuple[int, ...]
    sources_N: Tensor
    """Where in T the hidden state stands that predicts each counted token."""
    targets_N: Tensor
    mask_N: Tensor
    example_N: Tensor
    """Which example each counted token belongs to."""
    weight_E: Tensor
    """Weight of the example's group."""
    pairs_P2: Tensor
    """Example numbers (chosen, rejected) of the groups of two."""
    singles_S: Tensor
    """Example numbers of the groups of one."""
    reference_N: Tensor
    """Reference log-probs; NaN for examples that have none, so that a loss that needs them cannot go unnoticed."""

    def sum_by_example(self, value_N: Tensor) -> Tensor:
        """Sums of a per-token stream, one per example [E]."""
        return torch.zeros(len(self.lengths), dtype=value_N.dtype).index_add(0, self.example_N, value_N)


def pack_groups(groups: Sequence[Group]) -> Batch:
    """Lay groups end to end. A token's target is the next token of its own segment, so the last of each has none."""
    examples = [example for group in groups for example in group.examples]
    sources_N, targets_N, mask_N, example_N, reference_N = [], [], [], [], []
    start = 0
    for number, example in enumerate(examples):
        for t in range(1, len(example.tokens)):
            if example.mask[t] != 0:
                sources_N.append(start + t - 1)
                targets_N.append(example.tokens[t])
                mask_N.append(example.mask[t])
                example_N.append(number)
                reference = example.reference_logprobs
                reference_N.append(math.nan if reference is None else reference[t])
        start += len(example.tokens)
    pairs, singles, number = [], [], 0
    for group in groups:
        if len(group.examples) == 2:
            pairs.append((number, number + 1))
        elif len(group.examples) == 1:
            singles.append(number)
        number += len(group.examples)
    return Batch(
        tokens_T=torch.tensor([token for example in examples for token in example.tokens]),
        positions_T=torch.cat([torch.arange(len(example.tokens)) for example in examples]),
        lengths=tuple(len(example.tokens) for example in examples),
        sources_N=torch.tensor(sources_N, dtype=torch.int64),
        targets_N=torch.tensor(targets_N, dtype=torch.int64),
        mask_N=torch.tensor(mask_N, dtype=torch.float32),
        example_N=torch.tensor(example_N, dtype=torch.int64),
        weight_E=torch.tensor([group.weight for group in groups for _ in group.examples], dtype=torch.float32),
        pairs_P2=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        singles_S=torch.tensor(singles, dtype=torch.int64),
        reference_N=torch.tensor(reference_N, dtype=torch.float32),
    )


def totals(groups: Iterable[Group]) -> Totals:
    """The denominators of a step made of these groups."""
    groups = list(groups)
    return Totals(
        groups=sum(group.weight for group in groups),
        tokens=sum(group.weight * sum(example.mask) for group in groups for example in group.examples),
    )


def split_groups(groups: Sequence[Group], token_budget: int) -> list[list[Group]]:
    """Cut a step's groups, in order, into microbatches of at most `token_budget` tokens (one group may exceed it
    alone)."""
    parts: list[list[Group]] = []
    used = 0
    for group in groups:
        if not parts or used + group.num_tokens > token_budget:
            parts.append([])
            used = 0
        parts[-1].append(group)
        used += group.num_tokens
    return parts


def check_groups(groups: Sequence[Group], param: str = "training_file") -> None:
    """Refuse data that cannot teach anything, before the first step and by name.

    Raises:
        InvalidInput: no groups; a group without a counted token; a pair whose two answers are the same tokens.
    """
    if not groups:
        raise InvalidInput("There is nothing to train on: the data has no rows.", param=param, code="empty_dataset")
    for i, group in enumerate(groups):
        if any(example.counted == 0 for example in group.examples):
            raise InvalidInput(
                f"Row {i + 1} has no token to learn from: every assistant token is masked out.",
                param=param,
                code="all_masked",
            )
        if len(group.examples) == 2 and group.examples[0].tokens == group.examples[1].tokens:
            raise InvalidInput(f"Row {i + 1}: chosen and rejected are the same.", param=param, code="identical_pair")
