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


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_every_method_on_fixed_data_has_a_page() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} >= OWN
    assert {path.stem for path in PAGES.glob("*.md")} <= set(METHODS)


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
