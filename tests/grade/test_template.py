"""Placeholders reach the item and the sample, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tutee.errors import InvalidInput
from tutee.grade.result import Failure
from tutee.grade.sample import Sample
from tutee.grade.template import MOST_CHARACTERS, Template

ITEM: dict[str, Any] = {
    "answer": "yes",
    "items": [1, {"deep": "x"}],
    "keys": "not a method",
    "number": 4,
    "yes": True,
    "nothing": None,
    "text": "{{ item.answer }}",
}


def render(source: str, sample: Sample | None = None) -> str:
    names = {"item": ITEM, "sample": (sample or Sample("hello")).namespace()}
    return Template(source, "grader.input").render(names)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ item.answer }}", "yes"),
        ("{{item.answer}}!", "yes!"),
        ("{{ item['answer'] }}", "yes"),
        ("{{ item.items[1].deep }}", "x"),
        ("{{ item.items[-1]['deep'] }}", "x"),
        ("{{ item.keys }}", "not a method"),
        ("{{ item.number }}{{ item.yes }}{{ item.nothing }}", "4truenull"),
        ("{{ item.items }}", '[1, {"deep": "x"}]'),
        ("{{ sample.output_text }}", "hello"),
        ("{{ sample.choices[0].message.content }}", "hello"),
        ("no placeholder", "no placeholder"),
        ("{% for x in y %} {# no comment #} {", "{% for x in y %} {# no comment #} {"),
        ("line\n", "line\n"),
        ("<{{ item.text }}>", "<{{ item.answer }}>"),
    ],
)
def test_paths(source: str, text: str) -> None:
    assert render(source) == text


def test_output_json_is_there_when_the_sample_is_json() -> None:
    assert render("{{ sample.output_json.a[0] }}", Sample('{"a": [3]}')) == "3"
    with pytest.raises(Failure) as caught:
        render("{{ sample.output_json.a }}", Sample("no json"))
    assert caught.value.flags == ("sample_parse_error",)
    with pytest.raises(Failure):  # half of a surrogate pair: no text, so no JSON
        render("{{ sample.output_json.a }}", Sample('{"a": "\\ud83d"}'))
    with pytest.raises(Failure) as caught:
        render("{{ sample.output_json.b }}", Sample('{"a": [3]}'))
    assert caught.value.flags == ("invalid_variable_error",)


def test_tool_calls_are_there() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert render("{{ sample.output_tools[0].function.name }}", Sample("", [call])) == "f"


@pytest.mark.parametrize(
    "source",
    [
        "{{ item.missing }}",
        "{{ item.answer.missing }}",
        "{{ item.items[9] }}",
        "{{ item.__class__ }}",
        "{{ item.answer.__class__.__mro__ }}",
        "{{ item.answer.upper }}",
        "{{ item.number.real }}",
        "{{ sample.output_text.format }}",
    ],
)
def test_a_path_that_leads_nowhere_is_an_invalid_variable(source: str) -> None:
    with pytest.raises(Failure) as caught:
        render(source)
    assert caught.value.flags == ("invalid_variable_error",)


@pytest.mark.parametrize(
    "source",
    [
        "{{ other.x }}",
        "{{ ''.__class__ }}",
        "{{ item.answer.upper() }}",
        "{{ item.answer | upper }}",
        "{{ item.number + 1 }}",
        "{{ item.answer if item.yes else 1 }}",
        "{{ [x for x in item] }}",
        "{{ item[item.answer] }}",
        "{{ item.items[0:1] }}",
        "{{ self }}",
        "{{ cycler }}",
        "{{ range(9) }}",
        "{{ item is defined }}",
        "{{ item ~ item }}",
        "{{ 3 }}",
        "{{ item.answer",
        "{{ }}",
        "{{ item." + ".".join("a" * 5000) + " }}" + "{{" * 2000,
    ],
)
def test_anything_but_a_path_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Template(source, "grader.input")
    assert (caught.value.param, caught.value.code) == ("grader.input", "invalid_variable_error")


def test_lengths_are_bounded() -> None:
    with pytest.raises(InvalidInput):
        Template("x" * (MOST_CHARACTERS + 1), "grader.input")
    twice = Template("{{ item.long }}{{ item.long }}", "grader.input")
    with pytest.raises(Failure) as caught:
        twice.render({"item": {"long": "x" * (MOST_CHARACTERS // 2 + 1)}})
    assert caught.value.flags == ("other_error",)


def test_only_the_named_namespaces_are_known() -> None:
    assert Template("{{ item.answer }}", "x", ("item",)).render({"item": ITEM}) == "yes"
    with pytest.raises(InvalidInput, match="only item are known"):
        Template("{{ sample.output_text }}", "x", ("item",))
