"""What a grader says: a reward, or which of eleven things went wrong; and OpenAI's JSON of it.

Knows the fourteen error keys of OpenAI's reply (eleven flags, three texts). Does not know how anything is graded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Flag = Literal[
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
]
FLAGS: tuple[Flag, ...] = get_args(Flag)
TEXTS: Mapping[str, Flag] = {
    "python_grader_server_error_type": "python_grader_server_error",
    "python_grader_runtime_error_details": "python_grader_runtime_error",
    "model_grader_server_error_details": "model_grader_server_error",
}
"""Error keys that hold a text, and the flag that each explains."""
ERROR_KEYS: tuple[str, ...] = (*FLAGS, *TEXTS)


class Failure(Exception):
    """A grader could give no number for this answer.

    Args:
        flag: what kind of failure; OpenAI's word.
        message: a sentence for the person who wrote the grader.
        also: further flags that are true as well.
    """

    def __init__(self, flag: Flag, message: str, *also: Flag) -> None:
        super().__init__(message)
        self.flags: tuple[Flag, ...] = (flag, *also)
        self.message = message


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one model was asked for while grading."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    invocations: int = 1

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.invocations + other.invocations,
        )

    def to_dict(self) -> dict[str, int]:
        """As in `model_grader_token_usage_per_model`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "cached_tokens": self.cached_tokens,
            "reasoning_tokens": self.reasoning_tokens,
        }


def add_usage(*parts: Mapping[str, Usage]) -> dict[str, Usage]:
    """Usage by model, summed over several answers."""
    out: dict[str, Usage] = {}
    for part in parts:
        for model, usage in part.items():
            out[model] = out[model] + usage if model in out else usage
    return out


@dataclass(frozen=True, slots=True)
class Grade:
    """One answer, graded.

    Args:
        reward: the number; 0 when `failed` (then it means nothing and must not teach anything).
        errors: what went wrong, flag to sentence; empty when nothing did.
        sub_rewards: of a multi grader, one number a part that gave one; else empty.
        usage: tokens by model that was asked.
        seconds: wall time.
        model: who judged, as the server resolved it; None where no model was asked.
        said: what the judging model said, or the label it chose.
    """

    name: str
    type: str
    reward: float
    errors: Mapping[Flag, str] = field(default_factory=dict)
    sub_rewards: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    model: str | None = None
    said: str | None = None

    @classmethod
    def of_failure(cls, name: str, type: str, failure: Failure) -> Grade:
        """No number, and why."""
        return cls(name, type, 0.0, dict.fromkeys(failure.flags, failure.message))

    @property
    def failed(self) -> bool:
        """Whether there is no usable number."""
        return bool(self.errors)

    def took(self, seconds: float) -> Grade:
        """The same with its wall time."""
        return replace(self, seconds=seconds)

    def error_keys(self) -> dict[str, Any]:
        """All fourteen keys of OpenAI's `metadata.errors`."""
        flags: dict[str, Any] = {flag: flag in self.errors for flag in FLAGS}
        return flags | {key: self.errors.get(flag) for key, flag in TEXTS.items()}

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's reply of `alpha/graders/run`; `metadata.x_errors` says in a sentence what each true flag means."""
        scores = dict(self.sub_rewards) if self.type == "multi" else ({} if self.failed else {self.name: self.reward})
        return {
            "reward": self.reward,
            "sub_rewards": dict(self.sub_rewards),
            "metadata": {
                "name": self.name,
                "type": self.type,
                "errors": self.error_keys(),
                "x_errors": dict(self.errors),
                "execution_time": self.seconds,
                "scores": scores,
                "token_usage": sum(usage.total_tokens for usage in self.usage.values()) if self.usage else None,
                "sampled_model_name": self.model,
            },
            "model_grader_token_usage_per_model": {model: usage.to_dict() for model, usage in self.usage.items()},
        }
