"""The formula language: hand values, precedence, and everything that is no formula."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutee.grade.formula import MOST_DEPTH, MOST_TOKENS, Formula, FormulaError

RESULTS = {"a": 0.5, "b": 2.0, "c_1": -3.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", 0.5),
        ("a + b * c_1", -5.5),
        ("(a + b) * c_1", -7.5),
        ("a - b - c_1", 1.5),
        ("b / a / b", 2.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("-2 ^ 2", -4.0),
        ("2 ^ -1", 0.5),
        ("--b", 2.0),
        ("b * -c_1", 6.0),
        ("min(a, b, c_1) + max(a, b)", -1.0),
        ("min(b)", 2.0),
        ("abs(c_1) + floor(a) + ceil(a)", 4.0),
        ("exp(0) + sqrt(4) + log(1)", 3.0),
        (".5 + 1. + 1e-1", 1.6),
        ("  a\t*\n2 ", 1.0),
        ("0.7*a + 0.3*min(1, b/4)", 0.5),
    ],
)
def test_hand_values(text: str, value: float) -> None:
    assert Formula(text, RESULTS).value(RESULTS) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a +",
        "a b",
        "(a",
        "a)",
        "unknown",
        "a.real",
        "a ** b",
        "a, b",
        "sqrt(a, b)",
        "sqrt()",
        "pow(a, b)",
        "__import__('os')",
        "a if b else c_1",
        "a and b",
        "1_000",
        "min",
        "²",
        "(" * (MOST_DEPTH + 1) + "a" + ")" * (MOST_DEPTH + 1),
        "+".join("a" * (MOST_TOKENS + 1)),
        "2^" * 200 + "2",
    ],
)
def test_what_is_no_formula_says_why(text: str) -> None:
    with pytest.raises(FormulaError) as caught:
        Formula(text, RESULTS)
    assert str(caught.value)


@pytest.mark.parametrize(
    "text", ["a / 0", "a / (b - 2)", "log(0)", "log(c_1)", "sqrt(c_1)", "exp(9999)", "9^9^9", "c_1 ^ a", "exp(700)^2"]
)
def test_a_formula_without_a_value_says_so(text: str) -> None:
    formula = Formula(text, RESULTS)
    with pytest.raises(FormulaError):
        formula.value(RESULTS)


def test_the_longest_formula_that_is_read_can_be_evaluated() -> None:
    count = MOST_TOKENS // 2
    assert Formula("+".join(["a"] * count), RESULTS).value(RESULTS) == pytest.approx(count * 0.5)
    deep = "(" * (MOST_DEPTH - 1) + "a" + ")" * (MOST_DEPTH - 1)
    assert Formula(deep, RESULTS).value(RESULTS) == 0.5


expressions = st.recursive(
    st.sampled_from(["a", "b", "c_1"]) | st.integers(0, 9).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=12,
)


@given(expressions)
@settings(max_examples=100, deadline=None)
def test_arithmetic_agrees_with_python(text: str) -> None:
    expected = eval(text, {}, dict(RESULTS))
    assert math.isclose(Formula(text, RESULTS).value(RESULTS), expected, abs_tol=1e-9)
