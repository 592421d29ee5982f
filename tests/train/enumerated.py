"""A language model small enough to enumerate: V tokens, answers of exactly two, all its logits in one table.

Every answer y has a probability p(y) and a reward R(y), so expected rewards, KLs and their gradients are sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from tutee.train.batch import Batch, Example, Group, Totals, pack_groups, totals

VOCABULARY = 3


@dataclass
class TwoTokens:
    """logits[0] of the first token; logits[1 + a] of the second after `a`."""

    logits: Tensor
    answers: list[tuple[int, int]] = field(default_factory=lambda: list(product(range(VOCABULARY), repeat=2)))

    @classmethod
    def random(cls, seed: int) -> TwoTokens:
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(1 + VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64))

    def copy(self) -> TwoTokens:
        return TwoTokens(self.logits.detach().clone().requires_grad_())

    def token_logprobs(self, answer: tuple[int, int]) -> Tensor:
        table = torch.log_softmax(self.logits, dim=-1)
        return torch.stack([table[0, answer[0]], table[1 + answer[0], answer[1]]])

    def probabilities(self) -> Tensor:
        """p(y) of every answer."""
        return torch.stack([self.token_logprobs(y).sum().exp() for y in self.answers])

    def values(self, rewards: Tensor) -> dict[tuple[int, ...], float]:
        """The exact expected reward from each state: (), (0,), (1,) …"""
        p = self.probabilities().detach()
        out: dict[tuple[int, ...], float] = {(): float((p * rewards).sum())}
        for a in range(VOCABULARY):
            inside = torch.tensor([y[0] == a for y in self.answers])
            out[(a,)] = float((p * rewards)[inside].sum() / p[inside].sum())
        return out

    def gradient_of_expected(self, rewards: Tensor) -> Tensor:
        """∇ Σ_y p(y) R(y), by differentiating the sum."""
        model = self.copy()
        (model.probabilities() * rewards).sum().backward()
        assert model.logits.grad is not None
        return model.logits.grad


def example(answer: tuple[int, int], advantages: list[float], old: Tensor, reference: Tensor | None = None) -> Example:
    """A prompt of one token and the answer; `old` and `reference` are log-probs of its two tokens."""
    return Example(
        (0, *answer),
        (0.0, 1.0, 1.0),
        reference_logprobs=None if reference is None else (0.0, *reference.tolist()),
        behaviour_logprobs=(0.0, *old.tolist()),
        advantages=(0.0, *advantages),
    )


def in_batch(model: TwoTokens, groups: list[Group]) -> tuple[Tensor, Batch, Totals]:
    """What a loss is called with: the log-probs of every counted token, in the batch's order."""
    batch = pack_groups(groups)
    answers = [(e.tokens[1], e.tokens[2]) for group in groups for e in group.examples]
    return torch.cat([model.token_logprobs(y) for y in answers]), batch, totals(groups)
