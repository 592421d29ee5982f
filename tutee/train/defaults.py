"""What settings are when nobody says: by the number of rows, and by what else was said. Knows no data and no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutee.train.grpo import VARIANTS
from tutee.train.rollout import RolloutConfig


def few_rows(lora_rate: float, full_rate: float, rows: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Few examples get small batches and several epochs, because a LoRA needs some tens of steps to move at all. A
    LoRA wants about ten times the rate of all weights, whose checkpoints are also too large to write often."""
    full = bool(given.get("full", False))
    return {
        "learning_rate": full_rate if full else lora_rate,
        "epochs": 3 if rows < 500 else 2 if rows < 5000 else 1,
        "batch_size": 4 if rows < 500 else 8 if rows < 5000 else 16,
        "checkpoint_every": 100 if full else 10,
    }


def few_pairs(lora_rate: float, full_rate: float, rows: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Preferences are learned by heart quickly: at most two epochs."""
    return {**few_rows(lora_rate, full_rate, rows, given), "epochs": 2 if rows < 100 else 1}


def from_scratch(rows: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Random weights want large steps, and Muon."""
    return {"full": True, "optimizer": "muon", "learning_rate": 3e-3, "schedule": "cosine", "batch_size": 8}


def rollouts(rows: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Adam as in InstructGPT; a full fine-tune moves gently, for its gradient is noise for the most part."""
    full = bool(given.get("full", False))
    return {"learning_rate": 3e-6 if full else 1e-4, "eps": 1e-5, "checkpoint_every": 50 if full else 10}


def grpo_defaults(rows: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the published combination that is named, if one is."""
    published = dict(VARIANTS.get(str(given.get("variant")), {}))
    if {**published, **given}.get("denominator") == "constant":
        published["constant"] = given.get("max_tokens", RolloutConfig().max_tokens)
    return {**rollouts(rows, given), **published}
