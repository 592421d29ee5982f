"""A model that thinks before it answers: its thoughts are folded, streamed, and not part of the answer."""

from __future__ import annotations

import pytest

from tests.browser.scripted_model import THOUGHTFUL
from tests.browser.steps import ask, last, open_chat
from tests.browser.test_access import AXE, tab_to, violations


@pytest.fixture(scope="module")
def thoughtful(make_served):
    return make_served(texts=(THOUGHTFUL,), ends=True)


def test_thoughts_are_folded_and_the_answer_is_read(make_page, thoughtful, shoot):
    page = make_page(thoughtful, max_tokens=200)
    open_chat(page)
    page.evaluate(
        """() => {
          window.heard = new Set();
          const look = () => {
            const place = document.querySelector("[data-role=assistant]");
            if (place) window.heard.add(place.textContent.includes("<think") || place.textContent.includes("</think"));
            for (const one of document.querySelectorAll("[data-thoughts]")) window.heard.add(one.dataset.thoughts);
          };
          const all = { childList: true, subtree: true, characterData: true, attributes: true };
          new MutationObserver(look).observe(document.body, all);
        }"""
    )
    ask(page, "What is two and two?")
    assert page.evaluate("[...window.heard].map(String).sort()") == ["false", "growing", "whole"]
    summary = last(page, "[data-thoughts] summary")
    assert summary.inner_text() == "Thought for a moment"
    assert answer_text_of_words(page) == "The sum is four."
    assert not page.locator("[data-thoughts] .prose").is_visible()
    shoot(page, "folded")

    tab_to(page, "[data-thoughts] summary", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-thoughts][open] .prose:has-text('count on my fingers')")
    shoot(page, "unfolded")
    if AXE.is_file():
        assert violations(page) == []

    page.click("[data-role=assistant] [data-action=copy]")
    assert page.evaluate("navigator.clipboard.readText()").strip() == "The sum is **four**."
    page.click("[data-action=correct]")
    assert page.input_value("[data-editor=edit] textarea").strip() == "The sum is **four**."
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("[data-thoughts=whole]")
    assert answer_text_of_words(page) == "The sum is four."


def answer_text_of_words(page) -> str:
    """The answer without what is folded away."""
    return last(page, "[data-role=assistant] > .prose").inner_text().strip()


def test_the_reader_of_screens_hears_the_answer_only(make_page, thoughtful):
    page = make_page(thoughtful, max_tokens=200)
    open_chat(page)
    ask(page, "And again?")
    page.wait_for_selector("[data-live-region]:has-text('The sum is')", state="attached")
    assert "fingers" not in page.inner_text("[data-live-region]")
