"""Reads a grader from OpenAI's JSON, checking every field once, before anything is graded.

To add a kind: a reader here and a line in `READERS`. Unknown fields are refused (a misspelt one would be a grader that
silently does something else), but for the `id` that OpenAI's own replies carry. Does not know what a kind computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from tutee.errors import InvalidInput
from tutee.grade.formula import Formula, FormulaError
from tutee.grade.grader import Grader
from tutee.grade.model_graders import LabelModel, MessageTemplates, ScoreModel
from tutee.grade.multi import Multi
from tutee.grade.python_grader import Python
from tutee.grade.similarity import METRICS
from tutee.grade.template import Template
from tutee.grade.text_graders import OPERATIONS, StringCheck, TextSimilarity

REINFORCEMENT = ("string_check", "text_similarity", "score_model", "python", "multi")
"""Kinds that a fine-tuning job or `alpha/graders` takes."""
CRITERIA = ("string_check", "text_similarity", "score_model", "label_model", "python")
"""Kinds that an eval takes."""
PARTS = CRITERIA
"""Kinds that a multi grader is made of."""
MOST_SOURCE = 256 * 1024
MOST_PARTS = 64
MOST_MESSAGES = 128
MOST_LABELS = 256
NAME = 256
ROLES = ("user", "assistant", "system", "developer")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def parse_grader(raw: object, param: str = "grader", kinds: Sequence[str] = REINFORCEMENT) -> Grader:
    """A grader from its JSON definition.

    Args:
        raw: the decoded JSON.
        param: where it stands in the request (`method.reinforcement.grader`), for errors.
        kinds: the types that are allowed here.

    Raises:
        InvalidInput: naming the field by its dotted path. The code is `formula_parse_error` for a formula and
            `invalid_variable_error` for a placeholder, the words that `alpha/graders/run` has for them.
    """
    return _parse(_Object(raw, param), kinds)


def _parse(fields: _Object, kinds: Sequence[str]) -> Grader:
    kind = fields.text("type")
    if kind not in kinds:
        fields.refuse("type", f"is {kind!r}; here it must be one of {', '.join(kinds)}", "invalid_value")
    grader = READERS[kind](fields)
    fields.refuse_unknown()
    return grader


class _Object:
    """A JSON object whose fields are taken one by one; complaints name their dotted path."""

    def __init__(self, raw: object, param: str) -> None:
        if raw is None:
            raise InvalidInput(f"'{param}' is missing.", param=param, code="missing_required_parameter")
        if not isinstance(raw, dict):
            raise InvalidInput(f"'{param}' must be an object.", param=param, code="invalid_type")
        self.raw: dict[str, Any] = raw
        self.param = param
        self._taken = {"id"}

    def refuse(self, name: str, message: str, code: str) -> NoReturn:
        param = f"{self.param}.{name}"
        raise InvalidInput(f"'{param}' {message}.", param=param, code=code)

    def take(self, name: str, kind: type | tuple[type, ...], what: str, *, optional: bool = False) -> Any:
        self._taken.add(name)
        value = self.raw.get(name)
        if value is None:
            if optional:
                return None
            self.refuse(name, "is missing", "missing_required_parameter")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(name, f"must be {what}", "invalid_type")
        return value

    def text(self, name: str, *, most: int | None = None, empty: bool = False) -> str:
        value: str = self.take(name, str, "a string")
        if not value and not empty:
            self.refuse(name, "must not be empty", "string_below_min_length")
        if most is not None and len(value) > most:
            self.refuse(name, f"has {len(value)} characters; at most {most} are allowed", "string_above_max_length")
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        value = self.text(name)
        if value not in allowed:
            self.refuse(name, f"is {value!r}; it must be one of {', '.join(allowed)}", "invalid_value")
        return value

    def template(self, name: str) -> Template:
        return Template(self.text(name, empty=True), f"{self.param}.{name}")

    def texts(self, name: str, most: int) -> list[str]:
        values: list[str] = self.take(name, list, "a list of strings")
        if not values or len(values) > most or not all(isinstance(value, str) and value for value in values):
            self.refuse(name, f"must hold 1 to {most} strings", "invalid_value")
        return values

    def number(self, name: str, low: float, high: float, *, whole: bool = False) -> float | None:
        kinds, what = ((int,), "a whole number") if whole else ((int, float), "a number")
        value = self.take(name, kinds, what, optional=True)
        if value is not None and not low <= value <= high:
            self.refuse(name, f"is {value}; it must be from {low} to {high}", "invalid_value")
        return None if value is None else (int(value) if whole else float(value))

    def refuse_unknown(self) -> None:
        for name in self.raw.keys() - self._taken:
            if self.raw[name] is not None:
                self.refuse(name, "is not a known field", "unknown_parameter")


def _string_check(fields: _Object) -> Grader:
    definition = _named(fields, "string_check") | {
        "input": fields.text("input", empty=True),
        "reference": fields.text("reference", empty=True),
        "operation": fields.choice("operation", tuple(OPERATIONS)),
    }
    return StringCheck(definition, fields.template("input"), fields.template("reference"))


def _text_similarity(fields: _Object) -> Grader:
    definition = _named(fields, "text_similarity") | {
        "input": fields.text("input", empty=True),
        "reference": fields.text("reference", empty=True),
        "evaluation_metric": fields.choice("evaluation_metric", tuple(METRICS)),
    }
    return TextSimilarity(definition, fields.template("input"), fields.template("reference"))


def _python(fields: _Object) -> Grader:
    source = fields.text("source", most=MOST_SOURCE)
    try:
        compile(source, "<grader>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        fields.refuse("source", f"is no Python: {error}", "invalid_python")
    definition = _named(fields, "python") | {"source": source}
    image = fields.take("image_tag", str, "a string", optional=True)
    return Python(definition | ({} if image is None else {"image_tag": image}))


def _score_model(fields: _Object) -> Grader:
    definition = _asking(fields, "score_model")
    bounds = fields.take("range", list, "a list of two numbers", optional=True) or [0, 1]
    numbers = all(isinstance(b, int | float) and not isinstance(b, bool) and math.isfinite(b) for b in bounds)
    if len(bounds) != 2 or not numbers or bounds[0] >= bounds[1]:
        fields.refuse("range", "must be two numbers, the lower one first", "invalid_value")
    return ScoreModel(definition | {"range": bounds}, _messages(fields))


def _label_model(fields: _Object) -> Grader:
    labels, passing = fields.texts("labels", MOST_LABELS), fields.texts("passing_labels", MOST_LABELS)
    if len(set(labels)) < len(labels):
        fields.refuse("labels", "holds a label twice", "invalid_value")
    for label in passing:
        if label not in labels:
            fields.refuse("passing_labels", f"holds {label!r}, which is not in 'labels'", "invalid_value")
    definition = _asking(fields, "label_model") | {"labels": labels, "passing_labels": passing}
    return LabelModel(definition, _messages(fields))


def _multi(fields: _Object) -> Grader:
    parts: dict[str, Grader] = {}
    for name, part in _parts(fields):
        if name in parts:
            fields.refuse("graders", f"holds two graders called {name!r}", "invalid_value")
        parts[name] = _parse(part, PARTS)
    text = fields.text("calculate_output")
    try:
        formula = Formula(text, parts)
    except FormulaError as error:
        fields.refuse("calculate_output", f"is no formula: {error}", "formula_parse_error")
    definition = _named(fields, "multi") | {
        "graders": {name: dict(part.definition) for name, part in parts.items()},
        "calculate_output": text,
    }
    return Multi(definition, parts, formula)


def _parts(fields: _Object) -> list[tuple[str, _Object]]:
    """(name, definition) of the sub-graders, which may be a dict by name, a list, or a single one."""
    raw = fields.take("graders", (dict, list), "an object of graders by name, or a list of graders")
    if isinstance(raw, dict) and not isinstance(raw.get("type"), str):
        parts = [(name, _Object(part, f"{fields.param}.graders.{name}")) for name, part in raw.items()]
        for name, part in parts:
            part.raw = {"name": name, **part.raw}
    else:
        listed = raw if isinstance(raw, list) else [raw]
        each = [_Object(part, f"{fields.param}.graders[{i}]") for i, part in enumerate(listed)]
        parts = [(part.text("name", most=NAME), part) for part in each]
    if not 1 <= len(parts) <= MOST_PARTS:
        fields.refuse("graders", f"must hold 1 to {MOST_PARTS} graders", "invalid_value")
    return parts


READERS: Mapping[str, Callable[[_Object], Grader]] = {
    "string_check": _string_check,
    "text_similarity": _text_similarity,
    "score_model": _score_model,
    "label_model": _label_model,
    "python": _python,
    "multi": _multi,
}


def _named(fields: _Object, kind: str) -> dict[str, Any]:
    return {"type": kind, "name": fields.text("name", most=NAME)}


def _asking(fields: _Object, kind: str) -> dict[str, Any]:
    """What score and label models share."""
    definition = _named(fields, kind) | {
        "model": fields.text("model"),
        "input": fields.take("input", list, "a list of messages"),
    }
    given = fields.take("sampling_params", dict, "an object", optional=True)
    if given is not None:
        sampling = _Object(given, f"{fields.param}.sampling_params")
        sampling.number("temperature", 0, 2)
        sampling.number("top_p", 0, 1)
        sampling.number("seed", -(2**63), 2**63 - 1, whole=True)
        sampling.number("max_completions_tokens", 1, 2**31 - 1, whole=True)
        if sampling.take("reasoning_effort", str, "a string", optional=True) is not None:
            sampling.choice("reasoning_effort", EFFORTS)
        sampling.refuse_unknown()
        definition["sampling_params"] = given
    return definition


def _messages(fields: _Object) -> MessageTemplates:
    raw = fields.raw["input"]
    if not 1 <= len(raw) <= MOST_MESSAGES:
        fields.refuse("input", f"must hold 1 to {MOST_MESSAGES} messages", "invalid_value")
    return read_messages(raw, f"{fields.param}.input")


def read_messages(raw: Sequence[Any], param: str, namespaces: Sequence[str] = ("item", "sample")) -> MessageTemplates:
    """Message templates as graders and evals write them: `content` is text, a text part, or a list of both.

    Raises:
        InvalidInput: naming the field at fault; images and audio are refused by name.
    """
    out = []
    for i, each in enumerate(raw):
        message = _Object(each, f"{param}[{i}]")
        role = message.choice("role", ROLES)
        if message.take("type", str, "a string", optional=True) not in (None, "message"):
            message.refuse("type", "must be 'message'", "invalid_value")
        at = f"{message.param}.content"
        content = message.take("content", (str, dict, list), "text, a part or a list of parts")
        message.refuse_unknown()
        pieces = content if isinstance(content, list) else [content]
        text = "".join(_piece(piece, f"{at}[{j}]" if pieces is content else at) for j, piece in enumerate(pieces))
        out.append((role, Template(text, at, namespaces)))
    return out


def _piece(piece: object, param: str) -> str:
    if isinstance(piece, str):
        return piece
    part = _Object(piece, param)
    kind = part.text("type")
    if kind not in ("input_text", "output_text", "text"):
        part.refuse("type", f"is {kind!r}, but graders here read text only", "unsupported_value")
    return part.text("text", empty=True)
