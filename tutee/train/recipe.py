"""The default of `improve`: from tens of noisy votes and corrections to one adapter, in minutes on two cores.

The recipe (measured in research on 150 votes and 20 corrections): votes teach a small head on surface features of answers;
the head picks the best and the worst of several answers that the base samples now; one LoRA run learns from those pairs
(DPO, the sampler's own log-probs are the reference) together with people's corrections and demonstrations (as pairs and as
answers to imitate); then the adapter is scaled back as far as its distance to the base demands. Stages write their result
into the job folder, complete or absent, and a restarted job goes on after the last one.

Knows rows and models; nothing of the store, of HTTP, or of who may promote the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutee.conversation import Message
from tutee.data.rows import Row
from tutee.model.pretrained import Pretrained
from tutee.train.progress import Report, silent

STAGES = ("candidates", "head", "pairs", "train", "guard")


@dataclass(frozen=True, slots=True)
class RecipeConfig:
    """Every knob of the recipe; the defaults are the measured ones."""

    prompts: int = 96
    """Prompts on which candidates are sampled, the users' own first."""
    candidates: int = 8
    """Answers a prompt."""
    max_tokens: int = 96
    """Longest candidate, in tokens."""
    temperature: float = 0.9
    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 4e-4
    batch_size: int = 4
    beta: float = 0.1
    sft_weight: float = 1.0
    sft_repeats: int = 4
    """How often each correction or demonstration is imitated in the run."""
    rounds: int = 1
    """2 samples once more, from the first round's policy, and goes on from there."""
    max_kl: float = 12.0
    """Nats a reply; a policy further from the base is scaled back."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """What came out. `notes` are plain sentences for the person; `metrics` numbers for the version's page."""

    folder: Path
    """The adapter, PEFT files."""
    steps: int
    trained_tokens: int
    metrics: Mapping[str, float]
    notes: tuple[str, ...]


def run_recipe(
    model: Pretrained,
    rows: Sequence[Row],
    prompts: Sequence[tuple[Message, ...]],
    config: RecipeConfig,
    folder: Path,
    *,
    report: Report = silent,
) -> RecipeResult:
    """Make an adapter from feedback; goes on from `folder` if a run was broken off there.

    Args:
        rows: the train split of a snapshot (corrections and demos, pairs, thumbs).
        prompts: further prompts of the users (train split) on which candidates may be sampled.
        folder: the job's folder; the adapter is written to `folder/version`.

    Raises:
        InvalidInput: code `not_enough_feedback`, saying how many more labels of which kind are needed.
        Diverged: training ran away; the last good checkpoint stays in `folder`.
    """
    raise NotImplementedError


def read_config(raw: Mapping[str, Any]) -> RecipeConfig:
    """The settings of an improve job; unknown keys are refused by name."""
    raise NotImplementedError
