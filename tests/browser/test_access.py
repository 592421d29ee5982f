"""The page for everybody: keyboard only, screen readers, narrow screens, axe finds nothing serious in both colours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.browser.steps import COMPOSER, DONE, ask, escape, open_chat

AXE = Path(__file__).resolve().parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
ROOMS = {
    "/#/": ".welcome",
    "/#/improve": "[data-collected]",
    "/#/versions": "[data-versions]",
    "/#/feedback": "[data-feedback-list]:not([data-feedback-list=loading])",
    "/#/keys": "[data-keys]:not([data-keys=loading])",
}
"""Address → what is there when the room has read all that it shows."""


def violations(page) -> list[str]:
    """Serious and critical findings of axe on what is shown now."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = json.loads(page.evaluate("axe.run(document).then(found => JSON.stringify(found.violations))"))
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node.get('failureSummary', '')}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(make_page, scheme):
    if not AXE.is_file():
        pytest.skip("needs axe-core (npm ci in web/)")
    page = make_page(color_scheme=scheme, reduced_motion="reduce", max_tokens=120)
    found = {}
    for room, furnished in ROOMS.items():
        page.goto(room)
        page.wait_for_selector(furnished)
        page.wait_for_selector("[data-history=ready]")
        found[room] = violations(page)
    page.goto("/#/")
    ask(page, "Say something")
    found["chat"] = violations(page)
    page.click("[data-action=correct]")
    page.wait_for_selector("[data-editor=edit]")
    found["correcting"] = violations(page)
    escape(page, "[data-editor=edit]", focus="[data-editor=edit] textarea")
    page.click("[data-action=thumb-up]")
    page.wait_for_selector("[data-dialog=thumb]")
    found["thumb"] = violations(page)
    escape(page, "[data-dialog=thumb]")
    page.click("[data-action=compare]")
    page.wait_for_selector("[data-comparison=open]")
    found["compare"] = violations(page)
    page.keyboard.press("1")
    page.wait_for_selector("[data-comparison=judged] .chosen")
    found["judged"] = violations(page)
    page.click("[data-action=settings]")
    page.wait_for_selector("[data-dialog=settings]")
    found["settings"] = violations(page)
    assert {place: list_ for place, list_ in found.items() if list_} == {}


def tab_to(page, selector: str, key: str = "Tab", most: int = 400) -> None:
    """Press Tab until `selector` has the focus, and check that the focus can be seen."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.locator(f"{selector}:focus").count():
            seen = page.locator(f"{selector}:focus").evaluate(
                "one => getComputedStyle(one).outlineStyle !== 'none' || one.matches('[data-composer]')"
            )
            assert seen, f"no visible focus on {selector}"
            return
    pytest.fail(f"{selector} cannot be reached with Tab")


def test_the_whole_journey_by_keyboard(page):
    page.goto("/")
    page.wait_for_selector(COMPOSER)
    page.wait_for_selector(f"{COMPOSER}:focus")
    page.wait_for_selector("[data-history=ready]")
    tab_to(page, ".skip-link", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#main:focus")
    tab_to(page, "[data-composer]")
    page.keyboard.type("Hello by keyboard")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    tab_to(page, "[data-action=thumb-up]", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-dialog=thumb]")
    tab_to(page, "[data-reason=correct]")
    page.keyboard.press("Space")
    page.wait_for_selector("[data-reason=correct][aria-pressed=true]")
    page.wait_for_selector("[data-action=explain]:enabled")
    tab_to(page, "[data-action=explain]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-dialog=thumb]", state="detached")
    page.wait_for_selector("[data-action=thumb-up]:focus")  # it goes back to where it came from
    tab_to(page, "[data-action=compare]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-comparison=open] [role=group]:focus")
    page.keyboard.press("3")
    page.wait_for_selector("[data-comparison=judged]")
    tab_to(page, "[data-menu=answer]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-item=demo]:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector("[data-menu=answer]:focus")
    tab_to(page, "[data-composer]")


def test_a_reply_is_announced_once(page):
    open_chat(page)
    page.evaluate(
        """() => {
          window.said = [];
          const region = document.querySelector("[data-live-region]");
          const all = { childList: true, characterData: true, subtree: true };
          new MutationObserver(() => window.said.push(region.textContent)).observe(region, all);
        }"""
    )
    ask(page, "Say it once")
    page.wait_for_function("() => window.said.length > 0")
    said = page.evaluate("window.said")
    assert len(said) == 1
    assert said[0].startswith("tutee says: ")


@pytest.mark.parametrize("room", [*ROOMS, "chat"])
def test_a_narrow_screen_needs_no_sideways_scrolling(make_page, shoot, room):
    page = make_page(viewport={"width": 320, "height": 640}, max_tokens=120)
    page.goto("/#/" if room == "chat" else room)
    page.wait_for_selector(ROOMS["/#/" if room == "chat" else room])
    if room == "chat":
        ask(page, "A table please")
    page.wait_for_selector("[data-history=ready]", state="attached")
    wide = page.locator("body, main, .scroller").evaluate_all(
        "all => all.filter(x => x.scrollWidth > x.clientWidth + 1).map(x => x.className || x.tagName)"
    )
    assert wide == []
    page.click("[data-action=menu]")
    page.wait_for_selector("[data-sidebar].open [data-action=close-menu]:focus")
    escape(page, "[data-sidebar].open")
    page.wait_for_selector("[data-action=menu]:focus")
    shoot(page, room.strip("/#") or "welcome")
