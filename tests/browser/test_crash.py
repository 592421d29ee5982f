"""Journey 5: the server is killed in the middle of an answer. Nothing said is lost, and the page goes on by itself."""

from __future__ import annotations

from tests.browser.steps import ENDLESS, STREAMING, ask, expect, open_chat


def test_kill_in_mid_answer(make_page, make_served, shoot):
    served = make_served()
    page = make_page(served, max_tokens=ENDLESS)
    open_chat(page)
    ask(page, "A very long one please", wait=False)
    page.wait_for_selector(f"{STREAMING} .block >> nth=8", state="attached")
    served.kill()
    page.wait_for_selector("[data-away]")
    shoot(page, "away")
    served.start()
    page.wait_for_selector("[data-role=assistant][data-state=interrupted]")
    page.wait_for_selector("[data-away]", state="detached")
    expect(page.locator("[data-role=user]")).to_contain_text("A very long one please")
    page.wait_for_selector("[data-role=assistant] .block")  # what was said before the crash is still there
    shoot(page, "interrupted")
    page.evaluate("localStorage.setItem('tutee.sampling', '{\"max_tokens\":40}')")
    page.reload()
    page.wait_for_selector("[data-ending=interrupted]")
    page.click("[data-action=retry]")
    page.wait_for_selector("[data-role=assistant][data-state=complete] [data-siblings='2/2']")
