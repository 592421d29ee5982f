"""What a person does on the page, as small steps that journeys share. Waits on what is shown, never on time."""

from __future__ import annotations

from typing import Any

COMPOSER = "[data-composer]"
DONE = "[data-role=assistant]:not([data-state=streaming])"


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


def last(page: Any, selector: str) -> Any:
    """The last element that matches."""
    return page.locator(selector).last


def answer_text(page: Any) -> str:
    """What the last answer says."""
    return last(page, "[data-role=assistant] .prose").inner_text()


def toast(page: Any, text: str) -> None:
    """Wait until a notice says `text`."""
    page.wait_for_selector(f"[data-toast]:has-text({text!r})")


def confirm(page: Any, reason: str | None = None) -> None:
    """Answer the dialog that asks whether one is sure."""
    if reason is not None:
        page.fill("[data-dialog=confirm] textarea", reason)
    page.click("[data-dialog=confirm] [data-action=confirm]")
    page.wait_for_selector("[data-dialog=confirm]", state="detached")
