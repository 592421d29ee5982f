"""A model that thinks before it answers: its thoughts are folded, streamed, and not part of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.browser.scripted_model import THOUGHTFUL
from tests.browser.steps import DONE, STREAMING, ask, copied, escape, expect, last, open_chat
from tests.browser.test_access import AXE, tab_to, violations

ANSWER = "[data-role=assistant] > .prose"
"""The answer without what is folded away."""


@pytest.fixture(scope="module")
def thoughtful(make_served):
    return make_served(texts=(THOUGHTFUL,), ends=True)


def heard_so_far(page, text: str) -> Callable[[], None]:
    """Let the page hear `text` of the next answer and no more, until what this returns is called."""
    news = "data: " + json.dumps({"type": "delta", "offset": 0, "text": text}) + "\n\n"
    headers = {"Content-Type": "text/event-stream"}
    waiting: list = []
    released: list = []

    def release() -> None:
        released.append(True)
        for route in waiting:
            route.continue_()

    page.route("**/messages/*/stream?*", lambda route: route.fulfill(body=news, headers=headers))
    page.route("**/v1/tutee/messages/*", lambda route: route.continue_() if released else waiting.append(route))
    return release


def test_thoughts_are_shown_while_they_grow(make_page, thoughtful):
    page = make_page(thoughtful, max_tokens=200)
    open_chat(page)
    go_on = heard_so_far(page, "<think>\nThey ask for a sum</thi")
    ask(page, "What is two and two?", wait=False)
    page.wait_for_selector(f"{STREAMING} [data-thoughts=growing]")
    expect(last(page, "[data-thoughts] summary")).to_have_text("Thinking…")
    growing = page.locator("[data-role=assistant]").text_content()
    assert "They ask for a sum" in growing
    assert "<" not in growing, "a tag that has only begun is not shown"
    go_on()
    page.wait_for_selector(f"{DONE} [data-thoughts=whole]")
    expect(last(page, ANSWER)).to_have_text("The sum is four.")


def test_thoughts_are_folded_and_the_answer_is_read(make_page, thoughtful, shoot):
    page = make_page(thoughtful, max_tokens=200)
    open_chat(page)
    ask(page, "What is two and two?")
    summary = last(page, "[data-thoughts=whole] summary")
    expect(summary).to_have_text("Thought for a moment")
    expect(last(page, ANSWER)).to_have_text("The sum is four.")
    expect(page.locator("[data-thoughts] .prose")).to_be_hidden()
    assert "think>" not in page.locator("[data-role=assistant]").text_content()
    shoot(page, "folded")

    tab_to(page, "[data-thoughts] summary", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-thoughts][open] .prose:has-text('count on my fingers')")
    shoot(page, "unfolded")
    if AXE.is_file():
        assert violations(page) == []

    said = copied(page, page.locator("[data-role=assistant] [data-action=copy]"))
    assert said.strip() == "The sum is **four**."
    page.click("[data-action=correct]")
    assert page.input_value("[data-editor=edit] textarea").strip() == "The sum is **four**."
    escape(page, "[data-editor=edit]", focus="[data-editor=edit] textarea")
    page.reload()
    page.wait_for_selector("[data-thoughts=whole]")
    expect(last(page, ANSWER)).to_have_text("The sum is four.")


def test_the_reader_of_screens_hears_the_answer_only(make_page, thoughtful):
    page = make_page(thoughtful, max_tokens=200)
    open_chat(page)
    ask(page, "And again?")
    page.wait_for_selector("[data-live-region]:has-text('The sum is')", state="attached")
    assert "fingers" not in page.inner_text("[data-live-region]")
