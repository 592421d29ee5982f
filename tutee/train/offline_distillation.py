"""Off-policy distillation: a student learns what a larger teacher thinks of each token of given answers.

Hinton et al. 2015 (arXiv 1503.02531), for sequences Kim & Rush 2016 (arXiv 1606.07947, word level). With p the
teacher's distribution at a place, cut to its k likeliest tokens and made to sum to 1 again,
    L = Σ_t m_t Σ_{v ∈ top k} p_t(v) [log p_t(v) - log π(v | y_<t, x)] / Σ_t m_t
a forward KL a token: the student covers all that the teacher may say. A handful of numbers a token carries most of what
the teacher knows, and they are computed once, before training. The answers come from a file; where the student's own
answers shall be judged, see `distillation.py` (on-policy). A teacher with another tokenizer has no log-probs of our
tokens: imitate its texts instead (SFT on a file of them).

The teacher's distribution becomes a stream of soft targets: counted tokens of weight m p, with log p as reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tutee.data.openai_format import Supervised
from tutee.errors import InvalidInput
from tutee.model.logprobs import log_softmax
from tutee.model.pretrained import Pretrained
from tutee.model.value_head import hidden_states
from tutee.train.batch import Batch, Example, Group, Loss, SoftTarget, Totals, told
from tutee.train.distillation import require_same_tokenizer
from tutee.train.encode import Encoded
from tutee.train.metrics import Metrics
from tutee.train.options import require
from tutee.train.sft import sft_groups

CHUNK = 128
"""Rows of the teacher's logits at a time."""


@dataclass(frozen=True, slots=True)
class OfflineDistillationConfig:
    """What is asked of the teacher."""

    top_k: int = 16
    """Tokens of the teacher's distribution that are kept at each place."""
    teacher_temperature: float = 1.0
    """Softens the teacher above 1."""

    def __post_init__(self) -> None:
        require(1 <= self.top_k <= 1024, "top_k", "'top_k' must be between 1 and 1024.")
        temperature = self.teacher_temperature
        require(0 < temperature <= 10, "teacher_temperature", "'teacher_temperature' must be above 0 and at most 10.")

    def loss(self) -> Loss:
        return distillation_loss


def distillation_groups(
    model: Pretrained, teacher: Pretrained, rows: Sequence[Supervised], config: OfflineDistillationConfig
) -> Encoded:
    """SFT's groups with the teacher's distribution as target of every learned token.

    Raises:
        InvalidInput: the teacher's tokenizer is another (`wrong_tokenizer`), or a row does not fit its context; and as
            `encode_rows`.
    """
    require_same_tokenizer(teacher, model)
    encoded = sft_groups(model, rows)
    length = teacher.config.max_position_embeddings
    if any(len(example.tokens) > length for group in encoded.groups for example in group.examples):
        message = f"A row does not fit the teacher's context of {length} tokens."
        raise InvalidInput(message, param="settings.teacher", code="context_length_exceeded")
    return replace(encoded, groups=tuple(with_soft_targets(encoded.groups, teacher, config)))


@torch.no_grad()
def with_soft_targets(groups: Sequence[Group], teacher: Pretrained, config: OfflineDistillationConfig) -> list[Group]:
    """The groups with the teacher's distribution at every counted token of their examples."""
    examples = [example for group in groups for example in group.examples]
    for i, hidden_LD in hidden_states(teacher.decoder, [example.tokens for example in examples]):
        examples[i] = replace(examples[i], soft_targets=_soft_targets(teacher, examples[i], hidden_LD, config))
    out, found = [], iter(examples)
    for group in groups:
        out.append(replace(group, examples=tuple(next(found) for _ in group.examples)))
    return out


def _soft_targets(
    teacher: Pretrained, example: Example, hidden_LD: Tensor, config: OfflineDistillationConfig
) -> tuple[SoftTarget, ...]:
    out: list[SoftTarget] = [()] * len(example.tokens)
    places = [t for t, weight in enumerate(example.mask) if weight != 0]
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        logits_CV = teacher.decoder.logits(hidden_LD[[t - 1 for t in part]])
        top_CK = log_softmax(logits_CV / config.teacher_temperature).topk(min(config.top_k, logits_CV.shape[1]))
        logprob_CK = torch.log_softmax(top_CK.values, dim=-1)  # what was cut off is shared out
        for t, ids, logprobs in zip(part, top_CK.indices.tolist(), logprob_CK.tolist(), strict=True):
            out[t] = tuple(zip(ids, logprobs, strict=True))
    return tuple(out)


def distillation_loss(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
    """Forward KL a token from the student to the teacher, over the step's learned tokens.

    Raises:
        ValueError: a token has no teacher.
    """
    if told(torch.isnan(batch.reference_N)):
        raise ValueError("distillation needs the teacher's log-probs of every counted token")
    weight_N = batch.mask_N * batch.weight_E[batch.example_N]
    loss = (weight_N * (batch.reference_N - logprob_N)).sum() / totals.tokens
    total = loss.detach() * totals.tokens
    entropy = -(weight_N * batch.reference_N).sum()
    metrics = Metrics.ratio("distillation_kl", total, totals.tokens)
    return loss, metrics + Metrics.ratio("teacher_entropy", entropy, totals.tokens)
