"""The formula of a multi grader: `0.7 * correct + 0.3 * min(1, style / 2)`.

Numbers, names of sub-graders, `+ - * / ^`, parentheses, and the functions of `FUNCTIONS`. Parsed once into a tree of
nodes and walked; Python's own evaluation is never involved. `^` binds tightest and to the right, a minus in front
binds weaker than it (`-2^2` is -4), as in mathematics. Knows nothing of graders.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

MOST_TOKENS = 400
MOST_DEPTH = 40
"""Of parentheses. Both keep a hostile formula far from the end of Python's stack."""
FUNCTIONS: Mapping[str, tuple[Callable[..., float], int | None]] = {
    "min": (min, None),
    "max": (max, None),
    "abs": (abs, 1),
    "floor": (math.floor, 1),
    "ceil": (math.ceil, 1),
    "exp": (math.exp, 1),
    "sqrt": (math.sqrt, 1),
    "log": (math.log, 1),
}
"""Each with its number of arguments; None is one or more. `log` is the natural logarithm."""
OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": math.pow,
}
TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|([-+*/^(),]))", re.ASCII)


class FormulaError(Exception):
    """The formula cannot be read, or has no value for these numbers; the message says why."""


@dataclass(frozen=True, slots=True)
class Number:
    """A literal."""

    value: float


@dataclass(frozen=True, slots=True)
class Name:
    """The result of a sub-grader."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator on its arguments."""

    function: Callable[..., float]
    arguments: tuple[Node, ...]


Node = Number | Name | Call


class Formula:
    """A parsed formula. `names` are the results it uses.

    Raises:
        FormulaError: with what is wrong and where.
    """

    def __init__(self, text: str, known: Collection[str]) -> None:
        parser = _Parser(_tokens(text), known)
        self.text = text
        self._tree = parser.whole()
        self.names = frozenset(parser.names)

    def value(self, results: Mapping[str, float]) -> float:
        """The number. Raises FormulaError where there is none: division by zero, a root of -1, overflow."""
        try:
            value = _evaluate(self._tree, results)
        except ZeroDivisionError:
            raise FormulaError("it divides by zero") from None
        except (ValueError, OverflowError) as error:
            raise FormulaError(f"it has no value for these numbers ({error})") from None
        if not math.isfinite(value):
            raise FormulaError("its value is not finite")
        return value


def _evaluate(node: Node, results: Mapping[str, float]) -> float:
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Name):
        return results[node.name]
    return float(node.function(*(_evaluate(argument, results) for argument in node.arguments)))


def _tokens(text: str) -> list[str]:
    out, at, text = [], 0, text.rstrip()
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise FormulaError(f"{text[at:].lstrip()[0]!r} at character {at + 1} means nothing here")
        out.append(found[0].strip())
        at = found.end()
        if len(out) > MOST_TOKENS:
            raise FormulaError(f"it has more than {MOST_TOKENS} numbers, names and signs")
    return out


class _Parser:
    """Recursive descent, one method a level of precedence."""

    def __init__(self, tokens: list[str], known: Collection[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._known = known
        self.names: set[str] = set()

    def whole(self) -> Node:
        tree = self._sum()
        if self._at < len(self._tokens):
            raise FormulaError(f"{self._tokens[self._at]!r} was not expected")
        return tree

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, wanted: str = "") -> str:
        token = self._peek()
        if not token or (wanted and token != wanted):
            where = f"before {token!r}" if token else "at its end"
            raise FormulaError(f"{repr(wanted) if wanted else 'something'} is missing {where}")
        self._at += 1
        return token

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise FormulaError("it is nested too deeply")
        left = self._product()
        while self._peek() in ("+", "-"):
            left = self._chain(left, self._product)
        self._depth -= 1
        return left

    def _product(self) -> Node:
        left = self._signed()
        while self._peek() in ("*", "/"):
            left = self._chain(left, self._signed)
        return left

    def _chain(self, left: Node, side: Callable[[], Node]) -> Node:
        return Call(OPERATORS[self._take()], (left, side()))

    def _signed(self) -> Node:
        signs = 0
        while self._peek() in ("+", "-"):
            signs += self._take() == "-"
        node = self._power()
        return Call(OPERATORS["-"], (Number(0.0), node)) if signs % 2 else node

    def _power(self) -> Node:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise FormulaError("it is nested too deeply")
        node = self._chain(base, self._signed)
        self._depth -= 1
        return node

    def _atom(self) -> Node:
        token = self._take()
        if token == "(":
            inside = self._sum()
            self._take(")")
            return inside
        if token[0].isdigit() or token[0] == ".":
            return Number(float(token))
        if token in FUNCTIONS and self._peek() == "(":
            return self._call(token)
        if token in self._known:
            self.names.add(token)
            return Name(token)
        known = ", ".join(sorted(self._known)) or "none"
        raise FormulaError(f"{token!r} is neither a grader ({known}) nor a function ({', '.join(FUNCTIONS)})")

    def _call(self, name: str) -> Node:
        self._take("(")
        arguments = [self._sum()]
        while self._peek() == ",":
            self._take()
            arguments.append(self._sum())
        self._take(")")
        function, count = FUNCTIONS[name]
        if count is not None and len(arguments) != count:
            raise FormulaError(f"{name} takes {count} argument, not {len(arguments)}")
        # one argument of min is that argument; Python's own would take it for a list
        return arguments[0] if count is None and len(arguments) == 1 else Call(function, tuple(arguments))
