"""Rewards: what an answer is worth, as a weighted sum of named terms.

A term judges many answers at once and says NaN where it could not; a term that fails is asked again, and an answer that
never gets a number is left out of the step, so that a broken judge cannot teach anything. Over a threshold of such
answers the run stops to be looked at (`RewardFailing`); its last checkpoint is kept. Knows answers as text, tokens and
how they ended; nothing of policies or advantages.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tutee.errors import InvalidInput, TuteeError
from tutee.train.environments import Environment, Question
from tutee.train.options import require
from tutee.train.reward_process import Grade, RewardError, RewardProcess, call

ATTEMPTS = 2
"""Times that a term is asked for one answer before that answer is given up."""


class RewardFailing(TuteeError):
    """Too many answers of one step got no reward; the run stopped after its last checkpoint and can be resumed."""

    default_code = "reward_failing"


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer, as a judge may see it.

    Args:
        finished: it ended by itself (an end token), not at the length limit.
        token_ids: with the end token.
    """

    question: Question
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finished: bool


class Term(Protocol):
    """One part of a reward."""

    @property
    def name(self) -> str:
        """What its mean is reported as, after `reward/`."""
        ...

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """One number an answer, NaN where there is none this time."""
        ...


@dataclass(frozen=True, slots=True)
class Rewarded:
    """`total` is None when a term failed for this answer; `terms` holds those that did not, unweighted."""

    total: float | None
    terms: Mapping[str, float]


class Rewards:
    """A weighted sum of terms. `failures` counts calls that gave no number, `last_failure` says why the last did."""

    def __init__(self, terms: Sequence[tuple[float, Term]]) -> None:
        if not terms:
            raise InvalidInput("A run needs at least one reward.", param="rewards", code="invalid_value")
        names = [term.name for _, term in terms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInput(f"The reward {twice!r} is there twice.", param="rewards", code="invalid_value")
        require(all(math.isfinite(weight) for weight, _ in terms), "rewards", "A reward's weight must be a number.")
        self._terms = tuple(terms)
        self.failures = 0
        self.last_failure = ""

    def score(self, answers: Sequence[Answer]) -> list[Rewarded]:
        """Judge the answers; what fails is tried `ATTEMPTS` times."""
        found: list[dict[str, float]] = [{} for _ in answers]
        for _, term in self._terms:
            open_ = list(range(len(answers)))
            for _ in range(ATTEMPTS):
                if not open_:
                    break
                scores = term.score([answers[i] for i in open_])
                for i, score in zip(open_, scores, strict=True):
                    if math.isfinite(score):
                        found[i][term.name] = score
                failed = [i for i in open_ if term.name not in found[i]]
                self.failures += len(failed)
                if failed:
                    self.last_failure = getattr(term, "last_failure", "") or f"{term.name} gave no number"
                open_ = failed
        return [Rewarded(self._total(terms), terms) for terms in found]

    def _total(self, terms: Mapping[str, float]) -> float | None:
        if len(terms) < len(self._terms):
            return None
        return sum(weight * terms[term.name] for weight, term in self._terms)


class TaskReward:
    """What the environment itself says."""

    name = "task"

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [self._environment.score(answer.question, answer.text) for answer in answers]


class FunctionReward:
    """A person's `grade(sample, item) -> float`: by name in a process of its own, or a Python callable.

    A callable that hangs is left behind in its thread (a thread cannot be ended); by name it is ended and started anew.
    """

    def __init__(self, function: str | Grade, name: str = "function", timeout_s: float = 30.0) -> None:
        require(timeout_s > 0, "timeout_s", "'timeout_s' must be above 0.")
        self.name = name
        self.last_failure = ""
        self._process = RewardProcess(function, timeout_s) if isinstance(function, str) else None
        self._grade: Grade = self._process or _Watched(function, timeout_s)  # type: ignore[arg-type]

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [self._one(answer) for answer in answers]

    def _one(self, answer: Answer) -> float:
        sample = {
            "output_text": answer.text,
            "output_tokens": len(answer.token_ids),
            "finish_reason": "stop" if answer.finished else "length",
        }
        messages = [message.to_dict() for message in answer.question.messages]
        try:
            return self._grade(sample, {**answer.question.item, "messages": messages})
        except RewardError as error:
            self.last_failure = f"{self.name}: {error}"
            return math.nan

    def close(self) -> None:
        """End the function's process, if it has one."""
        if self._process is not None:
            self._process.close()


class _Watched:
    """A callable run in a thread, given up after a while."""

    def __init__(self, function: Grade, timeout_s: float) -> None:
        self._function = function
        self._timeout_s = timeout_s

    def __call__(self, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        outcome: list[float | RewardError] = []

        def run() -> None:
            try:
                outcome.append(call(self._function, sample, item))
            except RewardError as error:
                outcome.append(error)

        thread = threading.Thread(target=run, name="reward", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if not outcome:
            raise RewardError(f"it took more than {self._timeout_s:g} s")
        if isinstance(outcome[0], RewardError):
            raise outcome[0]
        return outcome[0]


class ModelReward:
    """A reward model's score of prompt and answer.

    Args:
        score: token sequences -> one score each, such as `RewardModel.score`.
        centre, spread: the reward is (score - centre) / spread; those of the reference policy's answers make rewards of
            different models comparable (Huang et al. 2024, arXiv 2403.17031).
    """

    name = "model"

    def __init__(
        self, score: Callable[[list[tuple[int, ...]]], Sequence[float]], centre: float = 0.0, spread: float = 1.0
    ) -> None:
        require(spread > 0, "spread", "'spread' must be above 0.")
        self._score = score
        self._centre, self._spread = centre, spread

    def score(self, answers: Sequence[Answer]) -> list[float]:
        scores = self._score([answer.prompt_ids + answer.token_ids for answer in answers])
        return [(float(score) - self._centre) / self._spread for score in scores]


class LengthTerm:
    """0 up to `free` tokens, then falling linearly to -1 at `most` tokens and beyond (Yu et al. 2025, DAPO, equation
    13)."""

    name = "length"

    def __init__(self, free: int, most: int) -> None:
        require(0 <= free < most, "length", "'free' tokens must be fewer than 'most'.")
        self._free, self._most = free, most

    def score(self, answers: Sequence[Answer]) -> list[float]:
        over = [len(answer.token_ids) - self._free for answer in answers]
        return [-min(1.0, max(0, tokens) / (self._most - self._free)) for tokens in over]


class FormatTerm:
    """1 when the whole answer has the wanted form (a regular expression, dot matches newlines), else 0."""

    name = "format"

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise InvalidInput(
                f"The pattern is no regular expression: {error}", param="format", code="invalid_value"
            ) from error

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [float(self._pattern.fullmatch(answer.text.strip()) is not None) for answer in answers]


class EndTerm:
    """-1 for an answer that was cut off instead of ending by itself: the missing-EOS penalty (Huang et al. 2024)."""

    name = "end"

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [0.0 if answer.finished else -1.0 for answer in answers]
