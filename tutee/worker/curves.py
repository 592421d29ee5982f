"""A job's numbers in OpenAI's words: what its events, its checkpoints and its result file call them.

One table, `COLUMNS`, from those words to what the trainer reports. Timings are not among them, so that a job that is
run again with the same seed has the same file to the byte. Knows names; nothing of training or of the store.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

Series = Mapping[str, Sequence[tuple[int, float | None]]]
"""Name → (step, value) in order of steps."""

COMMON: Mapping[str, str] = {"learning_rate": "learning_rate", "grad_norm": "grad_norm"}

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "supervised": {
        "train_loss": "train_loss",
        "train_accuracy": "train_mean_token_accuracy",
        "valid_loss": "valid_loss",
        "valid_mean_token_accuracy": "valid_mean_token_accuracy",
        **COMMON,
    },
    "dpo": {
        "train_loss": "dpo_loss",
        "reward_accuracy": "reward_accuracy",
        "reward_margin": "reward_margin",
        "valid_loss": "valid_dpo_loss",
        "valid_reward_accuracy": "valid_reward_accuracy",
        "valid_reward_margin": "valid_reward_margin",
        **COMMON,
    },
    "reinforcement": {
        "train_reward_mean": "reward",
        "valid_reward_mean": "valid_reward",
        "train_loss": "loss",
        "train_completion_tokens_mean": "length",
        "valid_completion_tokens_mean": "valid_length",
        "train_finished": "finished",
        "kl": "kl",
        "entropy": "entropy",
        **COMMON,
    },
    "reward_model": {
        "train_loss": "reward_loss",
        "reward_accuracy": "reward_accuracy",
        "reward_margin": "reward_margin",
        "valid_loss": "valid_reward_loss",
        "valid_reward_accuracy": "valid_reward_accuracy",
        "valid_reward_margin": "valid_reward_margin",
        **COMMON,
    },
}
"""Columns of the result file by the method's name in the API, each with the trainer's name for it."""

ALSO: Mapping[str, str] = {
    "train_mean_token_accuracy": "train_mean_token_accuracy",
    "full_valid_loss": "valid_loss",
    "full_valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""Further names that events and checkpoints have for a supervised job; every validation here is of the whole file."""


def in_openai_words(method: str, metrics: Mapping[str, float | None]) -> dict[str, float]:
    """One step's numbers; as they are for a method that OpenAI does not have."""
    known = COLUMNS.get(method)
    if known is None:
        return {name: value for name, value in metrics.items() if value is not None}
    names = {**known, **ALSO} if method == "supervised" else known
    found = {said: metrics.get(own) for said, own in names.items() if said != "train_accuracy"}
    return {said: value for said, value in found.items() if value is not None}


def headline(metrics: Mapping[str, float]) -> str | None:
    """The number that a step's line in the log shows; None when the step has none."""
    shown = {"reward": metrics.get("reward"), "validation": metrics.get("valid_reward")}
    if shown["reward"] is not None:
        return ", ".join(f"{name}={value:.3f}" for name, value in shown.items() if value is not None)
    return f"training loss={metrics['loss']:.2f}" if "loss" in metrics else None


def result_table(method: str, series: Series) -> str:
    """The job's curves as CSV: the method's columns, one line a step."""
    columns = COLUMNS.get(method) or {name: name for name in sorted(series)}
    by_step = {own: dict(series.get(own, ())) for own in columns.values()}
    steps = sorted({step for values in by_step.values() for step in values})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", *columns])
    table.writerows([step, *(by_step[own].get(step) for own in columns.values())] for step in steps)
    return text.getvalue()
