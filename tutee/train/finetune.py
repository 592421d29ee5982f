"""The fine-tuning jobs of the API: supervised and dpo, from lists of examples to adapter folders.

Resolves `auto` hyperparameters, trains with validation after each epoch, and writes one servable version an epoch.
Knows the shape of OpenAI's hyperparameters and of its examples; nothing of HTTP, of the store or of who asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutee.data.openai_format import Preference, Supervised
from tutee.model.pretrained import Pretrained
from tutee.train.progress import Report, silent

Method = Literal["supervised", "dpo"]


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """OpenAI's hyperparameters, every `auto` resolved."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    beta: float | None = None
    """DPO only."""


@dataclass(frozen=True, slots=True)
class EpochCheckpoint:
    """A servable version: the adapter after an epoch, and the numbers OpenAI reports for it."""

    step: int
    folder: Path
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """`checkpoints` has one entry an epoch, the last is the result. `too_long` are 1-based lines that were left out."""

    checkpoints: tuple[EpochCheckpoint, ...]
    steps: int
    trained_tokens: int
    skipped_steps: int
    too_long: tuple[int, ...]


def resolve_hyperparameters(method: Method, raw: Mapping[str, Any], num_examples: int) -> Hyperparameters:
    """Check OpenAI's hyperparameters and replace every `auto` or absent one by a number.

    Raises:
        InvalidInput: an unknown key, one that the method does not have, or a value out of range; `param` is
            `method.dpo.hyperparameters.beta` and the like.
    """
    raise NotImplementedError


def finetune(
    model: Pretrained,
    method: Method,
    examples: Sequence[Supervised] | Sequence[Preference],
    hyperparameters: Hyperparameters,
    folder: Path,
    *,
    validation: Sequence[Supervised] | Sequence[Preference] = (),
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> FinetuneResult:
    """Train a LoRA (or with settings `{"full": true}` all weights); goes on from `folder` if a run was broken off there.

    Args:
        folder: the job's folder; versions are written to `folder/versions/step-…`.
        settings: overrides of `TrainerConfig` and `LoopConfig` fields; unknown keys are refused.

    Raises:
        InvalidInput: nothing to learn from, naming the line. Diverged: see `loop.train`.
    """
    raise NotImplementedError
