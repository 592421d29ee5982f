"""A slow network, a server that is away, and people who do not wait: nothing is lost, sent twice or shown elsewhere."""

from __future__ import annotations

import pytest

from tests.browser.steps import (
    COMPOSER,
    DONE,
    answer_text,
    ask,
    copy,
    escape,
    expect,
    last,
    open_chat,
    open_menu,
    toast,
)

CONVERSATIONS = "**/v1/tutee/conversations"
SAY = "**/v1/tutee/conversations/*/messages"
GENERATE = "**/v1/tutee/conversations/*/generate"


class Held:
    """Requests of one kind that wait until they are let go."""

    def __init__(self, page, url: str, method: str = "POST") -> None:
        self.method = method
        self.waiting: list | None = []
        page.route(url, lambda route: self._hear(route))

    def _hear(self, route) -> None:
        if self.waiting is None or route.request.method != self.method:
            route.continue_()
        else:
            self.waiting.append(route)

    def let_go(self) -> None:
        waiting, self.waiting = self.waiting, None
        for route in waiting or []:
            route.continue_()


def say(page, text: str) -> None:
    page.fill(COMPOSER, text)
    page.press(COMPOSER, "Enter")


@pytest.mark.parametrize("slow", [CONVERSATIONS, SAY])
def test_a_slow_answer_stays_in_its_own_chat(page, slow):
    held = Held(page, slow)
    open_chat(page)
    said = f"Slowly from {slow.count('*')} places"
    say(page, said)
    page.wait_for_selector(f"[data-pending]:has-text({said!r})")
    page.click("[data-sidebar] a[href='#/improve']")
    page.wait_for_selector("[data-collected]")
    page.click("[data-action=new-chat]")
    page.wait_for_selector(".welcome")
    page.fill(COMPOSER, "Something else")
    held.let_go()
    row = page.locator("[data-conversation]", has_text=said)
    row.wait_for()
    expect(page.locator("[data-role=user]")).to_have_count(0)
    expect(page.locator(COMPOSER)).to_have_value("Something else")
    page.wait_for_url("**/#/")
    row.locator("a").click()
    page.wait_for_selector(DONE)
    expect(page.locator("[data-role=user]")).to_have_count(1)


def test_what_is_typed_while_a_chat_begins_stays(page):
    held = Held(page, CONVERSATIONS)
    open_chat(page)
    say(page, "The first words")
    page.wait_for_selector("[data-pending]")
    page.keyboard.type("and the next")
    held.let_go()
    page.wait_for_selector(DONE)
    page.wait_for_selector(f"{COMPOSER}:focus")
    expect(page.locator(COMPOSER)).to_have_value("and the next")
    page.reload()
    expect(page.locator(COMPOSER)).to_have_value("and the next")
    page.click("[data-action=new-chat]")
    expect(page.locator(COMPOSER)).to_have_value("")


def test_what_could_not_be_sent_comes_back(page):
    page.route(SAY, lambda route: route.abort())
    open_chat(page)
    say(page, "Into the void")
    toast(page, "does not answer")
    expect(page.locator(COMPOSER)).to_have_value("Into the void")
    page.unroute(SAY)
    page.press(COMPOSER, "Enter")
    page.wait_for_selector(DONE)
    page.locator("[data-role=user]").hover()
    page.click("[data-action=edit-turn]")
    page.fill("[data-editor=reword] textarea", "Into the void once more")
    page.route(SAY, lambda route: route.abort())
    page.click("[data-editor=reword] [data-action=save]")
    toast(page, "does not answer")
    expect(page.locator("[data-editor=reword] textarea")).to_have_value("Into the void once more")
    page.press("[data-editor=reword] textarea", "Escape")
    page.click("[data-dialog=confirm] button:has-text('Cancel')")
    page.wait_for_selector("[data-dialog=confirm]", state="detached")
    expect(page.locator("[data-editor=reword] textarea")).to_have_value("Into the void once more")


def test_a_double_click_is_one_wish(page, served):
    open_chat(page)
    ask(page, "Once is enough")
    held = Held(page, GENERATE)
    page.locator("[data-action=regenerate]").dblclick()
    page.wait_for_selector("[data-action=regenerate]:disabled")
    held.let_go()
    page.wait_for_selector(f"{DONE} [data-siblings='2/2']")
    found = served.call("GET", f"/conversations/{page.url.rsplit('/', 1)[1]}")
    assert [message["role"] for message in found["messages"]].count("assistant") == 2


def test_a_chat_that_could_not_be_read_is_read_again(page):
    open_chat(page)
    ask(page, "Read me twice")
    address = page.url
    url = f"**/v1/tutee/conversations/{address.rsplit('/', 1)[1]}"
    page.click("[data-action=new-chat]")
    page.wait_for_selector(".welcome")
    page.route(url, lambda route: route.abort())
    page.goto(address)
    page.wait_for_selector("[data-action=reopen]")
    page.unroute(url)
    page.click("[data-action=reopen]")
    page.wait_for_selector("[data-role=user]:has-text('Read me twice')")


def test_what_another_tab_said_is_shown_on_return(page):
    open_chat(page)
    ask(page, "Said in the first tab")
    second = page.context.new_page()
    second.goto(page.url)
    second.wait_for_selector(DONE)
    ask(second, "Said in the second tab")
    said = answer_text(second)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("[data-role=user]:has-text('Said in the second tab')")
    page.wait_for_selector(f"{DONE} >> nth=1")
    assert answer_text(page) == said


def test_a_name_that_is_not_wanted_is_left_with_escape(page):
    open_chat(page)
    ask(page, "Keep this name")
    row = page.locator("[data-conversation]", has_text="Keep this name")
    row.hover()
    open_menu(page, row.locator("[data-menu=conversation]"), "rename")
    page.fill(".rename", "Not this one")
    renamed: list[str] = []
    page.on("request", lambda request: request.method == "PATCH" and renamed.append(request.url))
    escape(page, ".rename", focus=".rename")
    row.wait_for()
    page.reload()
    page.wait_for_selector("[data-page-title]:has-text('Keep this name')")
    assert renamed == []


def test_a_browser_that_keeps_nothing_still_works(make_page):
    page = make_page(max_tokens=None)
    forbidden = "{ get() { throw new DOMException('no', 'SecurityError'); } }"
    for area in ("localStorage", "sessionStorage"):
        page.add_init_script(f"Object.defineProperty(window, {area!r}, {forbidden});")
    open_chat(page)
    page.fill(COMPOSER, "Half a thought")
    page.click("[data-sidebar] a[href='#/versions']")
    page.wait_for_selector("[data-versions]")
    page.click("[data-sidebar] .brand")
    expect(page.locator(COMPOSER)).to_have_value("Half a thought")
    page.press(COMPOSER, "Enter")
    page.wait_for_selector(DONE)


def test_a_key_that_does_not_fit_is_told(page):
    def guard(route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            error = {"message": "No.", "type": "invalid_request_error", "code": "invalid_api_key", "param": None}
            route.fulfill(status=401, json={"error": error})

    page.route("**/v1/tutee/me", guard)
    page.goto("/")
    page.fill("input#key", "wrong")
    page.press("input#key", "Enter")
    page.wait_for_selector("[data-refused]")
    page.fill("input#key", "right")
    page.press("input#key", "Enter")
    page.wait_for_selector(COMPOSER)
    page.reload()
    page.wait_for_selector(COMPOSER)
    assert page.evaluate("JSON.stringify(localStorage)").count("right") == 0


def test_what_does_not_reach_the_clipboard_is_not_called_copied(make_page):
    page = make_page(permissions=["clipboard-read"])
    open_chat(page)
    ask(page, "Copy this")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
    page.click(f"{DONE} [data-action=copy]")
    toast(page, "not allowed")
    expect(last(page, f"{DONE} [data-action=copy]")).to_have_attribute("aria-label", "Copy")


def test_a_page_over_plain_http_copies_too(page):
    page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined });")
    open_chat(page)
    ask(page, "Copy this without a clipboard")
    copy(page, page.locator(f"{DONE} [data-action=copy]"))
    page.focus(COMPOSER)
    page.keyboard.press("Control+V")
    start = answer_text(page).split("\n")[0].split(" ")[0]
    expect(page.locator(COMPOSER)).not_to_have_value("")
    assert page.input_value(COMPOSER).startswith(start)
