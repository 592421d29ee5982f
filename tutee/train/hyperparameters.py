"""OpenAI's fine-tuning methods and hyperparameters, and the methods and settings of ours that they mean.

Which hyperparameters there are is in `data/hyperparameters.py`; here each `auto` becomes a number. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutee.data.hyperparameters import HYPERPARAMETERS
from tutee.errors import InvalidInput
from tutee.train.options import require
from tutee.train.task import Method, choose

OURS = {"n_epochs": "epochs", "batch_size": "batch_size", "beta": "beta"}
"""Hyperparameters that are settings of ours under another name; `learning_rate_multiplier` is a factor."""
OURS_SAMPLED = {"batch_size": "prompts", "eval_interval": "eval_interval", "eval_samples": "eval_samples"}
"""The same for reinforcement, whose loop counts steps instead of epochs."""

METHODS = {"supervised": "sft", "dpo": "dpo", "reward_model": "reward", "reinforcement": "grpo"}
"""OpenAI's names for methods of ours; reinforcement's `x_algorithm` may name another one."""

STEPS = 40
"""Reinforcement takes about so many steps when nobody says how many epochs: fewer teach a small model little."""
QUESTIONS = 8
"""Questions a step, at most, when nobody says."""
ANSWERS = 8
"""Answers to each question at `compute_multiplier` 1."""
MOST_ANSWERS = 64
LOOKS = 10
"""Validations in a run when nobody says how many."""
VALIDATION_ANSWERS = 32
"""Answers that a validation draws, at least, when nobody says how many to each question."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """`settings` for `methods.run`, and what every `auto` came to be, as the API reports it."""

    settings: Mapping[str, Any]
    hyperparameters: Mapping[str, int | float | str]


def method_of(api_name: str, hyperparameters: Mapping[str, Any]) -> str:
    """Our name of the API's method; any other name is ours already."""
    if api_name == "reinforcement" and hyperparameters.get("x_algorithm") == "ppo":
        return "ppo"
    return METHODS.get(api_name, api_name)


def resolve(
    api_name: str, method: Method, raw: Mapping[str, Any], settings: Mapping[str, Any], rows: int, validation: int = 0
) -> Resolved:
    """Join OpenAI's hyperparameters with settings of ours.

    Args:
        api_name: the method as the API calls it, such as `supervised`.
        rows, validation: how many examples there are to train on, and to validate with.

    Raises:
        InvalidInput: an unknown key, one that the method does not have, a value out of range (`param` is
            `method.dpo.hyperparameters.beta` and the like), or the same thing said twice.
    """
    given = _checked(api_name, raw)
    choose(method, settings, rows)  # what is computed from them below must be in range
    ours = OURS_SAMPLED if api_name == "reinforcement" else OURS
    rate = method.defaults(rows, settings)["learning_rate"]
    meant: dict[str, Any] = {ours[key]: value for key, value in given.items() if key in ours}
    if "learning_rate_multiplier" in given:
        meant["learning_rate"] = rate * given["learning_rate_multiplier"]
    twice = next((name for name in meant if name in settings), None)
    if twice is not None:
        raise InvalidInput(f"'{twice}' is given as a hyperparameter and as a setting.", param=f"settings.{twice}")
    reported: dict[str, Any] = {}
    if api_name == "reinforcement":
        found, reported = _reinforcement(given, meant | dict(settings), rows, validation)
        meant = found | meant
    joined = {**meant, **settings}
    flat = choose(method, joined, rows).flat()
    reported |= {key: flat[ours[key]] for key in HYPERPARAMETERS[api_name].keys() & ours.keys()}
    reported["learning_rate_multiplier"] = given.get("learning_rate_multiplier", flat["learning_rate"] / rate)
    return Resolved(joined, {key: reported[key] for key in HYPERPARAMETERS[api_name]})


def _reinforcement(
    given: Mapping[str, Any], own: Mapping[str, Any], rows: int, validation: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the reinforcement loop that nobody gave in our words (`own`), and what they are in OpenAI's.

    OpenAI counts epochs over questions, the loop counts steps; `compute_multiplier` buys answers to each question.
    """
    prompts = own.get("prompts", min(QUESTIONS, rows))
    epochs = given.get("n_epochs", max(1, min(50, math.ceil(STEPS * prompts / rows))))
    steps = own.get("steps", math.ceil(rows * epochs / prompts))
    answers = max(2, min(MOST_ANSWERS, round(ANSWERS * given.get("compute_multiplier", 1.0))))
    samples = max(1, min(8, math.ceil(VALIDATION_ANSWERS / max(1, validation))))
    algorithm = given.get("x_algorithm", "grpo")
    settings = {
        "steps": steps,
        "prompts": prompts,
        "group": answers,
        "eval_interval": max(1, steps // LOOKS),
        "eval_samples": samples,
        **({"variant": algorithm} if algorithm == "rloo" else {}),
    }
    return settings, {
        "n_epochs": epochs,
        "reasoning_effort": given.get("reasoning_effort", "default"),
        "compute_multiplier": given.get("compute_multiplier", own.get("group", ANSWERS) / ANSWERS),
        "x_algorithm": algorithm,
    }


def _checked(api_name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What was said other than `auto`."""
    where, known = f"method.{api_name}.hyperparameters", HYPERPARAMETERS[api_name]
    given: dict[str, Any] = {}
    for key, value in raw.items():
        require(key in known, f"{where}.{key}", f"'{key}' is not a hyperparameter of {api_name}.")
        if value == "auto" or value is None:
            continue
        require(known[key].holds(value), f"{where}.{key}", f"'{key}' must be 'auto' or {known[key]}.")
        whole = getattr(known[key], "whole", False)
        given[key] = value if isinstance(value, str) else int(value) if whole else float(value)
    return given
