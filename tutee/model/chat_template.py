"""Runs a model folder's Jinja template in a sandbox with a budget.

A template is a program that came with some weights: it may be wrong, or hostile. It reads nothing but its arguments
(Jinja's immutable sandbox), and it is stopped when it loops too long or makes too much text. Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, cast

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from tutee.errors import InvalidInput

MAX_STEPS = 200_000
"""Loop turns and calls in one rendering; a conversation of a thousand turns takes some ten thousand."""
MAX_CHARACTERS = 8_000_000
MAX_BITS = 4096
"""Of a whole number."""
MAX_PARTS = 1000
"""Parts that a list is cut into, or digits that are rounded to."""
FILTERS = frozenset(
    [
        "abs",
        "attr",
        "batch",
        "capitalize",
        "count",
        "default",
        "d",
        "dictsort",
        "escape",
        "e",
        "first",
        "float",
        "groupby",
        "int",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "replace",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "slice",
        "sort",
        "string",
        "sum",
        "title",
        "tojson",
        "trim",
        "unique",
        "upper",
    ]
)
PADDING_METHODS = frozenset(("ljust", "rjust", "center", "zfill", "expandtabs", "format", "format_map", "translate"))
STEPS: ContextVar[list[int]] = ContextVar("STEPS")


class TemplateRefusedError(Exception):
    """The template called `raise_exception`: these messages are not what it renders."""


class OverBudgetError(Exception):
    """The template looped too long or made too much text."""


class Template:
    """A compiled chat template.

    Raises (on construction):
        InvalidInput: it is no Jinja template (code `invalid_template`).
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        del environment.globals["lipsum"]  # makes as much text as it is asked for
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
        environment.filters = {name: _checked(environment.filters[name]) for name in FILTERS}
        environment.filters |= {
            "tojson": _tojson,
            "steps": _steps,
            "sized": _sized,
            "indent": _indent,
            "replace": _replace,
            "join": _join,
            "sum": _sum_of_numbers(environment.filters["sum"]),
        }
        environment.filters |= {name: _in_parts(environment.filters[name]) for name in ("batch", "slice", "round")}
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(environment.parse(source)))
            """Names that the template reads from outside."""
        except (TemplateError, RecursionError) as error:
            raise _invalid(f"it does not compile: {error}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            tools: as OpenAI's JSON; templates test whether there are any.
            options: further variables.

        Raises:
            TemplateRefusedError: the template does not render these messages.
            InvalidInput: it throws, loops or makes too much text (code `invalid_template`).
        """
        token = STEPS.set([0])
        try:
            pieces: list[str] = []
            room = MAX_CHARACTERS
            for piece in self._template.generate(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=list(tools) or None,
                **self._special_tokens,
                **(options or {}),
            ):
                pieces.append(piece)
                room -= len(piece)
                if room < 0:
                    raise OverBudgetError(f"more than {MAX_CHARACTERS} characters")
            return "".join(pieces)
        except (TemplateRefusedError, InvalidInput):
            raise
        except (OverBudgetError, RecursionError, MemoryError) as error:
            raise _invalid(f"it loops or makes too much text ({error}).") from None
        except Exception as error:  # a template can raise anything that Python can
            raise _invalid(f"it throws {type(error).__name__}: {error}") from None
        finally:
            STEPS.reset(token)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Budgeted().visit(Parser(self, source, name, filename).parse())
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _count(1)
        if operator == "*" and not (_is_number(left) and _is_number(right)):
            text, times = (right, left) if _is_number(left) else (left, right)
            if len(text) * max(times, 0) > MAX_CHARACTERS:
                raise OverBudgetError("repeated text")
        if operator == "**" and (abs(left) > 1e6 or abs(right) > 64):
            raise OverBudgetError("a large power")
        if operator == "%" and isinstance(left, str):
            raise OverBudgetError("old-style formatting is not allowed")
        return _sized(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        padding = isinstance(obj, str | bytes) and attr in PADDING_METHODS
        return not padding and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _count(1)
        owner, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and method in ("replace", "join"):
            return (_replace if method == "replace" else _join_with)(owner, *args, **kwargs)
        return _sized(super().call(__context, __obj, *args, **kwargs))


class _Budgeted(NodeTransformer):
    """Counts the turns of every loop, what is compared, cut out or put together with `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "steps")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "sized")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "sized")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "sized")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "sized") if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says for other trainers' masks; here it only wraps its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _count(steps: int) -> None:
    counter = STEPS.get()
    counter[0] += steps
    if counter[0] > MAX_STEPS:
        raise OverBudgetError(f"more than {MAX_STEPS} steps")


def _steps(values: Any) -> Any:
    """A loop's values, counted: sequences at once (so that `loop.length` still works), others one by one."""
    if isinstance(values, list | tuple | dict | str | range):
        _count(len(values) + 1)
        return values
    return _each(values)


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _count(1)
        yield value


def _checked(function: Any) -> Any:
    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _count(1 + sum(len(value) // 10 for value in args if isinstance(value, list | tuple | range | dict)))
        return _sized(function(*args, **kwargs))

    return checked


def _in_parts(function: Any) -> Any:
    """A filter whose work grows with a number that it is given."""

    @wraps(function)
    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        if any(_is_number(number) and abs(number) > MAX_PARTS for number in (*args, *kwargs.values())):
            raise OverBudgetError("a large number of parts")
        return function(value, *args, **kwargs)

    return bounded


def _sum_of_numbers(function: Any) -> Any:
    """Lists added up one by one take the square of their number; a sum that begins at 0 has none."""

    @wraps(function)
    def from_zero(context: Any, values: Any, attribute: str | None = None) -> Any:
        return function(context, values, attribute)

    return from_zero


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    times = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    if len(text) + times * len(new) > MAX_CHARACTERS:
        raise OverBudgetError("a large replacement")
    return str(_sized(text.replace(old, new, times)))


def _join(values: Any, between: Any = "") -> str:
    return _join_with(str(between), values)


def _join_with(between: str, values: Any) -> str:
    texts = [str(value) for value in _steps(values)]
    if sum(map(len, texts)) + len(between) * len(texts) > MAX_CHARACTERS:
        raise OverBudgetError("a large join")
    return str(_sized(between.join(texts)))


def _sized(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple) and len(value) > MAX_CHARACTERS:
        raise OverBudgetError(f"more than {MAX_CHARACTERS} characters")
    if isinstance(value, str | bytes | list | tuple):
        _count(len(value) // 10_000)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverBudgetError("a large number")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """As transformers defines it: plain JSON, nothing escaped for HTML."""
    if indent is not None and not 0 <= indent <= 16:
        raise OverBudgetError("a large indent")
    return str(_sized(json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)))


def _indent(text: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
    if not 0 <= width <= 64:
        raise OverBudgetError("a large indent")
    lines = text.split("\n")
    padded = [" " * width + line if (line or blank) and (i or first) else line for i, line in enumerate(lines)]
    return str(_sized("\n".join(padded)))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 100:
        raise OverBudgetError("a long date pattern")
    return datetime.now().strftime(pattern)


def _refuse(message: str) -> None:
    raise TemplateRefusedError(message)


def _invalid(what: str) -> InvalidInput:
    return InvalidInput(f"The model's chat template cannot be used: {what}", param="model", code="invalid_template")
