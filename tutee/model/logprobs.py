"""Log-probabilities of tokens: the numbers that the sampler reports and the trainer learns from, by one code path.

Axes: T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tutee.model.decoder import Decoder
from tutee.model.lora import Lora


def log_softmax(logits_TV: Tensor) -> Tensor:
    """Float32 log-probabilities [T, V]; a row's numbers do not depend on the other rows. The engine must use this one."""
    raise NotImplementedError


def token_logprobs(
    decoder: Decoder, hidden_TD: Tensor, targets_T: Tensor, temperature: float = 1.0, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """(log-prob of each target, entropy of each distribution in nats), float32 [T], never whole [T, V] in memory.

    Row t of `hidden_TD` predicts `targets_T[t]`. Differentiable in the log-probs (logits are computed again in the
    backward pass); the entropy carries no gradient.
    """
    raise NotImplementedError


def score(
    decoder: Decoder, sequences: Sequence[Sequence[int]], lora: Lora | None = None, token_budget: int = 2048
) -> list[Tensor]:
    """Log-prob of `tokens[1:]` given the tokens before, for each sequence; float32, no gradient, batches of ≤ token_budget."""
    raise NotImplementedError
