"""Each method's page says what the code has: its settings with their defaults, and a command that is understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tutee.train.methods import METHODS
from tutee.train.task import setting_help

PAGES = Path(__file__).parents[2] / "docs" / "methods"
OWN = {"sft", "dpo", "kto", "reward", "pretrain", "best_of_n", "offline_distillation"}
ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \| (.*) \|$", re.MULTILINE)
SEVERAL = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]*) \| ", re.MULTILINE)
"""Rows of tables with three columns; of the names in the first, defaults are in the second."""
DRAWN = {"grpo", "ppo", "distillation"}


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_every_method_has_a_page() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == OWN | DRAWN == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_explained_on_a_page(name: str) -> None:
    """On its own; what methods have in common, on the page of training, and for drawn answers on GRPO's."""
    pages = page(name) + (PAGES.parent / "training.md").read_text(encoding="utf-8")
    pages += page("grpo") if METHODS[name].samples else ""
    assert [setting for setting in METHODS[name].settings() if f"`{setting}`" not in pages] == []


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_tables_of_methods_that_draw_say_what_the_code_has(name: str) -> None:
    found = {setting.name: setting.default for setting in setting_help(METHODS[name])}
    rows = [[re.findall(r"`([^`]*)`", cell) for cell in row] for row in SEVERAL.findall(page(name))]
    assert rows
    for names, defaults in rows:
        assert set(names) <= set(found)
        if len(names) == len(defaults):
            pairs = zip(names, defaults, strict=True)
            assert [d for n, d in pairs if d != str(found[n]) and not is_number(d, found[n])] == [], names


def is_number(said: str, default: object) -> bool:
    return isinstance(default, float) and said.replace(".", "").isdigit() and float(said) == default


@pytest.mark.parametrize("name", sorted(OWN))
def test_the_settings_are_those_of_the_code(name: str) -> None:
    said = {setting: default for setting, default, _ in ROW.findall(page(name))}
    found = {setting.name: str(setting.default) for setting in setting_help(METHODS[name])}
    assert said
    assert said == {setting: found.get(setting, "no such setting") for setting in said}
    own = f"{name.title().replace('_', '')}Config"
    assert {setting for setting, part in METHODS[name].settings().items() if part.__name__ == own} <= set(said)


@pytest.mark.parametrize("name", sorted(OWN))
def test_the_command_sets_what_exists(name: str) -> None:
    [command] = re.findall(rf"tutee train {name} (.*)", page(name))
    assert set(re.findall(r"--set (\w+)=", command)) <= set(METHODS[name].settings())


@pytest.mark.parametrize("name", sorted(OWN))
def test_it_names_a_paper_its_file_and_when_to_use_it(name: str) -> None:
    assert "arXiv" in page(name)
    assert f"tutee/train/{name}.py" in page(name)
    assert "**When.**" in page(name)
