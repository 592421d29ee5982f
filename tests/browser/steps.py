"""What a person does on the page, as small steps that journeys share. Waits on what is shown, never on time."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import expect

from tests.browser.conftest import PATIENCE_MS

COMPOSER = "[data-composer]"
DONE = "[data-role=assistant]:not([data-state=streaming])"
STREAMING = "[data-role=assistant][data-state=streaming]"
ENDLESS = 25_000
"""Tokens that no machine writes before it is told to stop."""

expect.set_options(timeout=PATIENCE_MS)


def open_chat(page: Any) -> None:
    """A new, empty chat."""
    page.goto("/")
    page.wait_for_selector(COMPOSER)


def ask(page: Any, text: str, wait: bool = True) -> None:
    """Say something with the keyboard, and wait until the answer at the end is whole."""
    before = page.locator("[data-role=user]").count()
    page.fill(COMPOSER, text)
    page.press(COMPOSER, "Enter")
    page.wait_for_selector(f"[data-role=user] >> nth={before}")
    if wait:
        page.wait_for_selector("[data-action=send]")
        page.wait_for_selector(f"{DONE} >> nth={before}")


def stop(page: Any) -> None:
    """End an answer that would go on for ever."""
    page.click("[data-action=stop]")
    page.wait_for_selector("[data-role=assistant][data-state=stopped]")


def last(page: Any, selector: str) -> Any:
    """The last element that matches."""
    return page.locator(selector).last


def answer_text(page: Any) -> str:
    """What the last answer says. It has to be whole: words that are still coming are another text a moment later."""
    return last(page, f"{DONE} .prose").inner_text()


def copy(page: Any, button: Any) -> None:
    """Press a button that copies, and wait until it says, or has said, that it did."""
    before = page.evaluate("window.copies")
    button.click()
    page.wait_for_function("before => window.copies > before", arg=before)


def copied(page: Any, button: Any) -> str:
    """Press a button that copies; what it put into the clipboard."""
    copy(page, button)
    text: str = page.evaluate("navigator.clipboard.readText()")
    page.wait_for_selector("[data-action=copy][aria-label=Copied], .code-copy:text-is('Copied')", state="detached")
    return text


def escape(page: Any, closes: str, focus: str | None = None) -> None:
    """Press Escape and wait until `closes` is gone; `focus` must have the focus first, where the key depends on it."""
    if focus is not None:
        page.wait_for_selector(f"{focus}:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector(closes, state="detached")


def toast(page: Any, text: str) -> None:
    """Wait until a notice says, or has said, `text`: it goes by itself, however late one looks. Each counts once."""
    page.wait_for_function(
        """text => { const at = window.notices.findIndex(notice => notice.includes(text));
                     return at >= 0 && window.notices.splice(0, at + 1).length > 0; }""",
        arg=text,
    )


def confirm(page: Any, reason: str | None = None) -> None:
    """Answer the dialog that asks whether one is sure."""
    if reason is not None:
        page.fill("[data-dialog=confirm] textarea", reason)
    page.click("[data-dialog=confirm] [data-action=confirm]")
    page.wait_for_selector("[data-dialog=confirm]", state="detached")


def open_menu(page: Any, button: Any, item: str) -> None:
    """Open a menu and choose from it."""
    button.click()
    page.click(f"[popover]:popover-open [data-item={item}]")
