"""Journey 1, chat: streaming, stop, branches, history, looks, drafts, reload in the middle of an answer."""

from __future__ import annotations

import re
import time
import zipfile

import httpx

from tests.browser.conftest import PATIENCE_MS
from tests.browser.scripted_model import LONG, SHORT
from tests.browser.steps import (
    COMPOSER,
    DONE,
    ENDLESS,
    STREAMING,
    answer_text,
    ask,
    confirm,
    copied,
    escape,
    expect,
    last,
    open_chat,
    open_menu,
    stop,
    toast,
)


def count_paints(page) -> None:
    """Note each length that the growing answer has, in the page itself."""
    page.evaluate(
        """() => {
          window.lengths = [];
          new MutationObserver(() => {
            const prose = [...document.querySelectorAll("[data-role=assistant] .prose")].at(-1);
            if (prose) window.lengths.push(prose.textContent.length);
          }).observe(document.getElementById("main"), { childList: true, subtree: true, characterData: true });
        }"""
    )


def test_an_answer_streams_and_survives_a_reload(make_page, shoot):
    page = make_page(max_tokens=ENDLESS)
    open_chat(page)
    shoot(page, "welcome")
    count_paints(page)
    ask(page, "How does a bicycle stay upright?", wait=False)
    page.wait_for_function("() => new Set(window.lengths).size >= 3")  # the text grows in several paints
    page.wait_for_selector(f"{STREAMING} .block >> nth=20", state="attached")  # more than one turn of the script
    stop(page)
    said = answer_text(page)
    assert any(text.split("\n")[0].replace("**", "") in said for text in (LONG, SHORT))
    assert last(page, "[data-role=assistant] [data-version]").inner_text() == "v0"
    shoot(page, "answer")
    page.reload()
    page.wait_for_selector(DONE)
    assert answer_text(page) == said
    expect(page.locator("[data-page-title]")).to_have_text("How does a bicycle stay upright?")


def test_an_answer_that_reaches_its_limit_says_so(make_page):
    page = make_page(max_tokens=20)
    open_chat(page)
    ask(page, "Longer than allowed")
    expect(page.locator("[data-ending=length]")).to_be_visible()


def test_markdown_is_rendered_and_code_is_copied(make_page):
    page = make_page(max_tokens=120)
    open_chat(page)
    ask(page, "Tell me")
    for number in range(2, 40):  # either of two texts with equal chances
        if page.locator("[data-role=assistant] table").count():
            break
        page.click("[data-action=regenerate]")
        # The new answer, not the old one that is there until it begins.
        page.wait_for_selector(f"[data-role=assistant][data-state=complete] [data-siblings='{number}/{number}']")
    answer = last(page, "[data-role=assistant]")
    assert answer.locator("ol li").first.inner_text() == "First thing"
    assert answer.locator("strong").first.inner_text() == "bold"
    assert copied(page, answer.locator(".code-copy").first) == "def lean(angle):\n    return 0.4 * angle"
    said = copied(page, answer.locator("[data-action=copy]"))
    assert said.startswith("Here is a longer answer, with **bold** words.")
    page.wait_for_selector(".hljs-keyword")


def test_stop_ends_the_engine_and_keeps_the_part(make_page, served, shoot):
    page = make_page(max_tokens=ENDLESS)
    open_chat(page)
    ask(page, "Go on and on", wait=False)
    page.wait_for_selector(f"{STREAMING} .prose")
    page.focus("[data-action=stop]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-role=assistant][data-state=stopped]")
    page.wait_for_selector(f"{COMPOSER}:focus")  # the button is gone; the focus is not
    expect(page.locator("[data-ending=stopped]")).to_be_visible()
    said = answer_text(page)
    assert said
    shoot(page, "stopped")
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not re.search(r"running\S* 0(\.0)?$", httpx.get(f"{served.url}/metrics", timeout=30).text, re.M):
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.1)
    page.reload()
    page.wait_for_selector("[data-ending=stopped]")
    assert answer_text(page) == said


def test_a_reload_in_the_middle_goes_on_where_it_was(make_page):
    page = make_page(max_tokens=ENDLESS)
    open_chat(page)
    ask(page, "A long one please", wait=False)
    page.wait_for_selector(f"{STREAMING} .prose")
    page.reload()
    page.wait_for_selector(f"{STREAMING} .prose")
    second = page.context.new_page()
    second.goto(page.url)
    second.wait_for_selector(f"{STREAMING} .block >> nth=20", state="attached")
    stop(page)
    second.wait_for_selector("[data-role=assistant][data-state=stopped]")
    assert answer_text(page) == answer_text(second)
    lines = {line for line in answer_text(page).split("\n") if line.strip()}
    assert len(lines) < 20, "a loop over a short script has few different lines, unless something was lost or doubled"


def test_regenerate_and_edit_make_branches_and_nothing_is_overwritten(page, shoot):
    open_chat(page)
    ask(page, "First wording")
    ask(page, "A question that follows")
    page.locator("[data-role=assistant]").first.locator("[data-action=regenerate]").click()
    page.wait_for_selector(f"{DONE} [data-siblings='2/2']")
    expect(page.locator("[data-role=user]")).to_have_count(1)
    page.click("[data-siblings] [aria-label='Previous branch']")
    page.wait_for_selector("text=A question that follows")
    page.locator("[data-role=user]").first.hover()
    page.locator("[data-action=edit-turn]").first.click()
    page.fill("[data-editor=reword] textarea", "Second wording")
    page.click("[data-editor=reword] [data-action=save]")
    page.wait_for_selector("[data-role=user] [data-siblings='2/2']")
    page.wait_for_selector(DONE)
    expect(page.locator("text=A question that follows")).to_have_count(0)
    shoot(page, "branches")
    page.reload()
    page.wait_for_selector("text=Second wording")
    page.click("[data-role=user] [data-siblings] [aria-label='Previous branch']")
    page.wait_for_selector("text=First wording")
    page.wait_for_selector("[data-role=assistant] [data-siblings]")


def test_history_is_searched_renamed_and_deleted(page, served):
    open_chat(page)
    ask(page, "Zebra stripes and why")
    row = page.locator("[data-conversation]", has_text="Zebra stripes")
    row.hover()
    open_menu(page, row.locator("[data-menu=conversation]"), "rename")
    page.fill(".rename", "About zebras")
    page.press(".rename", "Enter")
    row = page.locator("[data-conversation]", has_text="About zebras")
    row.wait_for()
    expect(page.locator("[data-page-title]")).to_have_text("About zebras")
    row.hover()
    open_menu(page, row.locator("[data-menu=conversation]"), "keep-out")
    toast(page, "kept out of training")
    found = served.call("GET", "/conversations?q=zebras")["data"]
    assert [one["train"] for one in found] == [False]
    page.fill("[data-search]", "no such words anywhere")
    page.wait_for_selector("text=No chat has these words.")
    page.fill("[data-search]", "zebras")
    row.wait_for()
    row.hover()
    open_menu(page, row.locator("[data-menu=conversation]"), "delete")
    confirm(page)
    row.wait_for(state="detached")
    page.wait_for_selector("text=Ask. Then teach.")


def test_a_draft_survives_and_keys_do_what_people_expect(page):
    open_chat(page)
    page.fill(COMPOSER, "half a thought")
    page.press(COMPOSER, "Shift+Enter")
    page.type(COMPOSER, "second line")
    page.reload()
    expect(page.locator(COMPOSER)).to_have_value("half a thought\nsecond line")
    page.evaluate(
        """() => document.querySelector("[data-composer]").dispatchEvent(
             new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    expect(page.locator(COMPOSER)).to_have_value("half a thought\nsecond line")  # Enter ended a composition: not sent
    page.press(COMPOSER, "Enter")
    page.wait_for_selector("[data-role=user]:has-text('second line')")
    page.wait_for_selector(DONE)
    expect(page.locator("[data-role=user]")).to_have_count(1)
    expect(page.locator(COMPOSER)).to_have_value("")


def test_the_view_stays_where_one_reads(make_page):
    page = make_page(max_tokens=1500, viewport={"width": 900, "height": 500})
    open_chat(page)
    ask(page, "A long one please", wait=False)
    scroller = page.locator("[data-thread]")
    page.wait_for_selector("[data-role=assistant] .block >> nth=40", state="attached")
    scroller.evaluate("box => box.scrollTo({ top: 100 })")
    page.wait_for_selector("[data-action=to-end]")
    page.wait_for_selector("[data-action=send]")
    page.wait_for_selector(DONE)
    assert scroller.evaluate("box => box.scrollTop") == 100
    page.click("[data-action=to-end]")
    page.wait_for_selector("[data-action=to-end]", state="detached")


def test_the_view_follows_an_answer_that_grows_in_leaps(make_page):
    page = make_page(max_tokens=200, viewport={"width": 360, "height": 560})
    open_chat(page)
    ask(page, "W" * 400)
    page.wait_for_function(
        """() => { const box = document.querySelector("[data-thread]");
                   return box.scrollHeight - box.scrollTop - box.clientHeight < 2; }"""
    )
    expect(page.locator("[data-action=to-end]")).to_have_count(0)


MARKUP = """5. five
6. six

| Left | Middle | Right |
| :-- | :-: | --: |
| a | b | c |

$$\\sum_{n=1}^{9} n$$

- קוד:
  ```python
  print("left to right")
  ```
"""


def test_lists_tables_and_formulas_keep_their_form(page, served):
    conversation = served.call("POST", "/conversations", json={})["id"]
    turn = served.call("POST", f"/conversations/{conversation}/messages", json={"content": "?", "parent_id": None})
    shown = {"kind": "demo", "conversation_id": conversation, "parent_id": turn["id"], "content": MARKUP}
    answer = served.call("POST", "/feedback", json=shown)["message"]["id"]
    served.call("PATCH", f"/conversations/{conversation}", json={"head_message_id": answer})
    page.goto(f"/#/c/{conversation}")
    expect(page.locator(".prose ol")).to_have_attribute("start", "5")
    expect(page.locator(".prose td").nth(1)).to_have_css("text-align", re.compile("center$"))
    expect(page.locator(".prose td").nth(2)).to_have_css("text-align", re.compile("right$"))
    expect(page.locator(".prose math")).to_have_attribute("display", "block")
    assert "\\sum" not in page.locator(".prose math").text_content(), "what is typeset is not said again as TeX"
    expect(page.locator(".prose pre")).to_have_css("direction", "ltr")


def test_a_long_history_is_read_to_its_end_and_stays(make_page, make_served):
    served = make_served()
    for number in range(95):
        served.call("POST", "/conversations", json={"title": f"Old chat {number}"})
    page = make_page(served, viewport={"width": 1280, "height": 5000})
    open_chat(page)
    rows = page.locator("[data-conversation]")
    expect(rows).to_have_count(95)  # three pages fit on this screen
    ask(page, "A new one")
    page.wait_for_selector("[data-conversation]:has-text('A new one')")
    expect(rows).to_have_count(96)


def test_a_temporary_chat_leaves_no_trace(page, served):
    open_chat(page)
    page.click("[data-action=temporary-chat]")
    page.wait_for_selector("text=This chat leaves no trace")
    ask(page, "A secret about llamas")
    page.wait_for_selector(f"{DONE} [data-action=copy]")
    expect(page.locator("[data-action=thumb-up]")).to_have_count(0)
    expect(page.locator("[data-conversation]", has_text="llamas")).to_have_count(0)
    assert served.call("GET", "/conversations?q=llamas")["data"] == []
    for file in served.home.glob("tutee.db*"):
        assert b"secret about llamas" not in file.read_bytes()
    assert page.evaluate("JSON.stringify(localStorage)").count("llamas") == 0


def test_a_person_erases_everything_of_theirs_and_nothing_of_anybody_elses(page, served):
    open_chat(page)
    ask(page, "The owner's own question")
    page.click("[data-action=settings]")
    page.fill("[data-dialog=settings] .inline-form input", "leaver")
    page.click("[data-dialog=settings] button:has-text('Switch')")
    page.wait_for_selector(COMPOSER)
    expect(page.locator("[data-conversation]")).to_have_count(0)
    ask(page, "Tell me about leaving")
    expect(page.locator("[data-conversation]", has_text="leaving")).to_have_count(1)
    page.click("[data-action=settings]")
    page.click("[data-action=erase-me]")
    page.click("[data-dialog=confirm] button:has-text('Cancel')")
    page.click("[data-action=erase-me]")
    with page.expect_navigation():
        page.click("[data-dialog=confirm] [data-action=confirm]")
    page.wait_for_selector(COMPOSER)
    expect(page.locator("[data-conversation]")).to_have_count(0)
    assert served.call("GET", "/conversations?q=owner")["data"]


def test_settings_reach_the_answer(page, served):
    open_chat(page)
    page.click("[data-action=settings]")
    page.fill("[data-dialog=settings] input[max='2']", "0")
    page.fill("[data-dialog=settings] textarea", "You are brief.")
    escape(page, "[data-dialog=settings]")
    ask(page, "Hello there")
    conversation = served.call("GET", f"/conversations/{page.url.rsplit('/', 1)[1]}")
    assert conversation["system"] == "You are brief."
    page.click("[data-action=settings]")
    with page.expect_download() as archive:
        page.click("[data-dialog=settings] button:has-text('Download everything')")
    assert zipfile.is_zipfile(archive.value.path())
    page.click("[data-dialog=settings] button:has-text('Dark')")
    page.wait_for_selector("html[data-theme=dark]")
    page.reload()
    page.wait_for_selector(f"html[data-theme=dark] {COMPOSER}")


def test_an_error_of_the_server_is_said_in_its_own_words(page):
    open_chat(page)
    page.fill(COMPOSER, "x" * 60_000)
    page.press(COMPOSER, "Enter")
    toast(page, "context")
    page.wait_for_selector("[data-action=answer]")
    page.goto("/#/c/conv-00000000000000000000000000000000")
    page.wait_for_selector("text=This chat is not here")
