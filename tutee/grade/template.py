"""`{{ item.question }}` and `{{ sample.output_json.steps[0] }}`: the placeholders of graders and evals.

Jinja's immutable sandbox, cut down to paths: a placeholder begins with one of the namespaces and goes on by keys and
indices. No statement, filter, call, operator or attribute of a Python object exists here, so a template can neither
loop nor reach anything but the JSON values it was given. Everything outside `{{ }}` is plain text, also `{% %}`.

Text is put in as it is; any other value as JSON (our definition: OpenAI states none).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tutee.errors import InvalidInput
from tutee.grade.result import Failure

NAMESPACES = ("item", "sample")
MOST_CHARACTERS = 1 << 20
"""Of one template, and of one rendered text."""
NEVER = "\x00"
"""Stands in front of what must not be markup; JSON bodies with it are refused at the door."""


class Template:
    """One text with placeholders.

    Args:
        source: the text.
        param: where it stands in the request, for errors.
        namespaces: what a placeholder may begin with.

    Raises:
        InvalidInput: no valid text, or a placeholder that is not a path (code `invalid_variable_error`).
    """

    def __init__(self, source: str, param: str, namespaces: Sequence[str] = NAMESPACES) -> None:
        if len(source) > MOST_CHARACTERS:
            message = f"'{param}' has {len(source)} characters; at most {MOST_CHARACTERS} are allowed."
            raise InvalidInput(message, param=param, code="string_above_max_length")
        self.source = source
        self.namespaces = tuple(namespaces)
        try:
            for node in ENVIRONMENT.parse(source).body:
                self._check(node, param)
            self._template = ENVIRONMENT.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise _invalid(param, f"is no valid template: {error or 'nested too deeply'}") from None

    def _check(self, node: nodes.Node, param: str) -> None:
        if not isinstance(node, nodes.Output):
            raise _invalid(param, "may hold only text and {{ placeholders }}")
        for part in node.nodes:
            if not isinstance(part, nodes.TemplateData):
                self._check_path(part, param)

    def _check_path(self, node: nodes.Node, param: str) -> None:
        while isinstance(node, nodes.Getattr | nodes.Getitem):
            if isinstance(node, nodes.Getitem) and not _is_literal(node.arg):
                break
            node = node.node
        if not isinstance(node, nodes.Name):
            raise _invalid(param, "has a placeholder that is more than a path such as {{ item.answer }}")
        if node.name not in self.namespaces:
            known = " or ".join(self.namespaces)
            raise _invalid(param, f"has a placeholder that begins with '{node.name}', but only {known} are known")

    def render(self, names: Mapping[str, Any]) -> str:
        """The text with its placeholders filled in.

        Raises:
            Failure: a path leads nowhere (`invalid_variable_error`); `sample.output_json` is wanted, but the answer is
                no JSON (`sample_parse_error`); the text is too long (`other_error`).
        """
        try:
            pieces, room = [], MOST_CHARACTERS
            for piece in self._template.generate(names):
                pieces.append(piece)
                room -= len(piece)
                if room < 0:
                    raise Failure("other_error", f"A template became more than {MOST_CHARACTERS} characters long.")
        except UndefinedError as error:
            sample = names.get("sample")
            if "output_json" in str(error.message) and isinstance(sample, Mapping) and "output_json" not in sample:
                raise Failure("sample_parse_error", "The sample is no JSON, so it has no output_json.") from None
            raise Failure("invalid_variable_error", f"A placeholder leads nowhere: {error.message}.") from None
        return "".join(pieces)


class _Environment(ImmutableSandboxedEnvironment):
    """Looks names up in JSON objects and arrays, and nowhere else."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Mapping) and isinstance(argument, str) and argument in obj:
            return obj[argument]
        if isinstance(obj, list | tuple) and isinstance(argument, int) and -len(obj) <= argument < len(obj):
            return obj[argument]
        if isinstance(obj, StrictUndefined):
            return obj  # the first step that failed is the one to name
        return self.undefined(f"there is no {argument!r}", name=str(argument))


def _is_literal(node: nodes.Node) -> bool:
    return isinstance(node.node if isinstance(node, nodes.Neg) else node, nodes.Const)


def as_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finalize(value: Any) -> Any:
    if isinstance(value, StrictUndefined):
        return value  # raises when it is put into the text
    return as_text(value)


def _invalid(param: str, what: str) -> InvalidInput:
    return InvalidInput(f"'{param}' {what}.", param=param, code="invalid_variable_error")


ENVIRONMENT = _Environment(
    block_start_string=NEVER + "{%",
    comment_start_string=NEVER + "{#",
    undefined=StrictUndefined,
    finalize=_finalize,
    keep_trailing_newline=True,
    autoescape=False,
)
ENVIRONMENT.globals.clear()
