"""Graders that ask a model: for a score in a range, or for one of some labels.

The messages are the definition's, with placeholders filled in. What form the answer must have is a JSON schema, for a
model that can be held to one, and a sentence (`ModelQuestion.instruction`) for one that reads. Who answers is injected:
`tools.ask`. A reward model answers with a real number instead of a text; it is brought into the range by a logistic
curve, so that its order is kept.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tutee.errors import InvalidInput, TuteeError
from tutee.grade.grader import Grader, ModelAnswer, ModelQuestion, Tools
from tutee.grade.result import Failure, Grade
from tutee.grade.template import Template

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
NAMED_NUMBER = re.compile(rf"\b(?:result|score|rating)\b\W{{0,4}}({NUMBER.pattern})", re.IGNORECASE)
MessageTemplates = Sequence[tuple[str, Template]]
"""(role, content) in order."""


class _AsksModel(Grader):
    def __init__(self, definition: Mapping[str, Any], messages: MessageTemplates) -> None:
        super().__init__(definition["name"], definition)
        self._messages = messages
        self._model: str = definition["model"]
        self._sampling = _sampling(definition.get("sampling_params") or {})

    def models(self) -> set[str]:
        return {self._model}

    def _ask(self, names: Mapping[str, Any], tools: Tools, schema: Mapping[str, Any], instruction: str) -> ModelAnswer:
        if tools.ask is None:
            raise Failure("model_grader_server_error", "No model can be asked here.")
        messages = [{"role": role, "content": template.render(names)} for role, template in self._messages]
        question = ModelQuestion(self._model, messages, self._sampling, schema, instruction)
        try:
            answer = tools.ask(question)
        except InvalidInput as error:
            if error.code == "context_length_exceeded":
                raise Failure("truncated_observation_error", error.message) from error
            raise Failure("model_grader_server_error", error.message) from error
        except TuteeError as error:
            raise Failure("model_grader_server_error", error.message) from error
        except TimeoutError as error:
            said = f"The model '{self._model}' did not answer in time."
            raise Failure("unresponsive_reward_error", said, "model_grader_server_error") from error
        if answer.refusal is not None:
            raise Failure("model_grader_refusal_error", f"The model '{self._model}' refused: {answer.refusal}")
        return answer

    def _graded(self, answer: ModelAnswer, reward: float, said: str) -> Grade:
        usage = {answer.model: answer.usage}
        return Grade(self.name, self.type, reward, usage=usage, model=answer.model, said=said)


class ScoreModel(_AsksModel):
    """A number in a range."""

    type = "score_model"

    def __init__(self, definition: Mapping[str, Any], messages: MessageTemplates) -> None:
        super().__init__(definition, messages)
        self._low, self._high = (float(bound) for bound in definition["range"])

    @property
    def middle(self) -> float:
        return (self._low + self._high) / 2

    def measure(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        bounds = {"type": "number", "minimum": self._low, "maximum": self._high}
        instruction = (
            f'Answer with nothing but a JSON object: {{"result": NUMBER}}, where NUMBER is your score from '
            f"{self._low:g} to {self._high:g}."
        )
        answer = self._ask(names, tools, _object("result", bounds), instruction)
        if answer.score is not None:
            share = 0.5 * (1 + math.tanh(answer.score / 2))
            return self._graded(answer, self._low + share * (self._high - self._low), f"{answer.score:.6g}")
        score = read_score(answer.text)
        if score is None:
            raise _unreadable(answer, "There is no score in what the model said")
        if not self._low <= score <= self._high:
            raise _unreadable(answer, f"The score {score:g} is outside {self._low:g} to {self._high:g}")
        return self._graded(answer, score, answer.text)


class LabelModel(_AsksModel):
    """1 when the label that the model chooses is a passing one, else 0."""

    type = "label_model"

    def __init__(self, definition: Mapping[str, Any], messages: MessageTemplates) -> None:
        super().__init__(definition, messages)
        self._labels: Sequence[str] = definition["labels"]
        self._passing = frozenset(definition["passing_labels"])

    def measure(self, names: Mapping[str, Any], tools: Tools) -> Grade:
        listed = ", ".join(json.dumps(label, ensure_ascii=False) for label in self._labels)
        instruction = f'Answer with nothing but a JSON object: {{"label": LABEL}}, where LABEL is one of {listed}.'
        schema = _object("label", {"type": "string", "enum": list(self._labels)})
        answer = self._ask(names, tools, schema, instruction)
        if answer.score is not None:
            raise Failure("model_grader_parse_error", f"'{self._model}' is a reward model: it gives no labels.")
        label = read_label(answer.text, self._labels)
        if label is None:
            raise _unreadable(answer, "There is none of the labels in what the model said")
        return self._graded(answer, float(label in self._passing), label)


def read_score(text: str) -> float | None:
    """The score in a judge's answer: `{"result": 0.5}`, a bare number, or `Score: 0.5`; None where there is no one
    score."""
    value = _in_json(text, ("result", "score"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if NUMBER.fullmatch(text.strip()):
        return float(text)
    named = {float(found) for found in NAMED_NUMBER.findall(text)}
    return named.pop() if len(named) == 1 else None


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """The label in a judge's answer: `{"label": "good"}`, the label alone, or the only label that is mentioned."""
    value = _in_json(text, ("label", "result"))
    if isinstance(value, str) and value in labels:
        return value
    plain = text.strip().strip("\"'.!*` ").casefold()
    for label in labels:
        if plain == label.casefold():
            return label
    found = [label for label in labels if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


def _in_json(text: str, keys: Sequence[str]) -> Any:
    start, end = text.find("{"), text.rfind("}")
    try:
        # no whole numbers: one of hundreds of digits is no float
        value = json.loads(text[start : end + 1], parse_int=float) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None
    return next((value[key] for key in keys if key in value), None) if isinstance(value, dict) else None


def _unreadable(answer: ModelAnswer, what: str) -> Failure:
    cut = " (it was cut off at its token limit)" if answer.truncated else ""
    return Failure("model_grader_parse_error", f"{what}{cut}: {answer.text[:200]!r}.")


def _object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: dict(value)}, "required": [name], "additionalProperties": False}


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature 0 unless it was given: the same answer deserves the same score twice."""
    out = {"temperature": 0.0, **{key: value for key, value in given.items() if value is not None}}
    if "max_completions_tokens" in out:  # OpenAI's spelling, in this place alone
        out["max_tokens"] = out.pop("max_completions_tokens")
    return out
