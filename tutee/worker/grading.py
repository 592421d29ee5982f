"""A reinforcement job's grader as a reward of the trainer.

Each sampled answer becomes a grader's `sample`, the row behind its question the `item`. An answer that does not have
the form that the job's `response_format` asks for earns 0 without being looked at: it is drawn freely, because an
answer under a grammar is no sample that a policy gradient may learn from, so the form is learned like the rest. Does
not know what a grader computes, nor who answers it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLTokenizer

from tutee.engine.grammar import LIMITS, json_grammar
from tutee.errors import TuteeError
from tutee.grade import Grader, Sample, Tools, parse_grader
from tutee.grade.pythons import open_pythons
from tutee.store.schema import Job
from tutee.train.rewards import Answer, RewardFailing
from tutee.worker.judges import Judges

if TYPE_CHECKING:
    from tutee.improve import Workplace

AT_ONCE = 16
"""Answers that are graded at the same time, by graders that ask a model or run a function."""
PARAM = "method.reinforcement.grader"


class GraderReward:
    """A `rewards.Term`: one grade an answer, NaN where the grader gave none (and not because of the answer)."""

    name = "grader"

    def __init__(self, grader: Grader, tools: Tools, form: Form | None = None) -> None:
        self._grader = grader
        self._tools = tools
        self._form = form
        self._waits = bool(grader.models() or grader.sources())
        self.last_failure = ""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """See `rewards.Term`."""
        if not self._waits:
            return [self._one(answer) for answer in answers]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._one, answers))

    def _one(self, answer: Answer) -> float:
        if self._form is not None and not self._form.fits(answer.text):
            return 0.0
        sample = Sample(answer.text, finish_reason="stop" if answer.finished else "length")
        grade = self._grader.grade(answer.question.item, sample, self._tools)
        if not grade.failed:
            return grade.reward
        if set(grade.errors) == {"sample_parse_error"}:
            return 0.0
        self.last_failure = "; ".join(grade.errors.values())
        return math.nan


class Form:
    """JSON of a schema, the same that `response_format` holds a served answer to."""

    def __init__(self, schema: Mapping[str, Any], strict: bool) -> None:
        self._grammar = json_grammar(schema, strict=strict, param="response_format").text
        self._bytes = LLTokenizer("byte")

    def fits(self, text: str) -> bool:
        """Whether the whole text, but for space around it, is such JSON."""
        matcher, tokens = LLMatcher(self._bytes, self._grammar, log_level=0, limits=LIMITS), list(text.strip().encode())
        return bool(matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens)) and (
            matcher.is_accepting()
        )


@contextmanager
def grading(place: Workplace, job: Job) -> Iterator[GraderReward]:
    """The job's grader with what it needs, until the run ends.

    Raises:
        TuteeError: from the run, when the grader failed for too many answers (code `grader_error_rate`).
    """
    grader = parse_grader(job.config["grader"], PARAM)
    with ExitStack() as open_parts:
        judges = pythons = None
        if grader.models():
            judges = Judges(place)
            open_parts.callback(judges.close)
            judges.load(grader.models())
        if grader.sources():
            pythons = open_pythons(place.settings)
            if pythons is not None:
                open_parts.callback(pythons.close)
        reward = GraderReward(grader, Tools(ask=judges, run_python=pythons), form_of(job))
        try:
            yield reward
        except RewardFailing:
            message = f"The grader '{grader.name}' gave no number for too many answers. The last time: "
            raise TuteeError(message + reward.last_failure, param=PARAM, code="grader_error_rate") from None


def form_of(job: Job) -> Form | None:
    """What the job's `response_format` asks for; None: anything."""
    asked = job.config.get("response_format") or {}
    if asked.get("type") != "json_schema":
        return None
    return Form(asked["json_schema"]["schema"], bool(asked["json_schema"].get("strict")))
