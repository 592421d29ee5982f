"""Journey 2, teach: thumbs with reasons, two blind answers, a correction with its diff, a demonstration, consent."""

from __future__ import annotations

from tests.browser.steps import COMPOSER, DONE, answer_text, ask, escape, expect, last, open_chat, open_menu, toast


def feedback(served, kind: str) -> list[dict]:
    return served.call("GET", f"/feedback?kind={kind}&limit=100")["data"]


def test_a_thumb_is_given_explained_turned_and_taken_back(page, served, shoot):
    open_chat(page)
    ask(page, "Say something to rate")
    before = len(feedback(served, "thumb"))
    page.click("[data-action=thumb-down]")
    page.wait_for_selector("[data-dialog=thumb]")
    page.click("[data-reason=too_long]")
    page.fill("[data-dialog=thumb] textarea", "Half would do.")
    shoot(page, "reasons")
    page.click("[data-action=explain]")
    page.wait_for_selector("[data-dialog=thumb]", state="detached")
    page.wait_for_selector("[data-action=thumb-down][aria-pressed=true]")
    newest = feedback(served, "thumb")[0]
    assert (newest["payload"]["value"], newest["reasons"], newest["comment"]) == (-1, ["too_long"], "Half would do.")
    page.click("[data-action=thumb-up]")
    page.wait_for_selector("[data-action=thumb-up][aria-pressed=true]")
    page.wait_for_selector("[data-action=thumb-down][aria-pressed=false]")
    page.click("[data-action=undo-thumb]")
    page.wait_for_selector("[data-dialog=thumb]", state="detached")
    page.wait_for_selector("[data-action=thumb-up][aria-pressed=false]")
    assert len(feedback(served, "thumb")) == before + 4, "four events: nothing is overwritten"
    page.reload()
    page.wait_for_selector("[data-action=thumb-up][aria-pressed=false]")


def test_two_blind_answers_are_compared_with_the_keyboard(page, served, shoot):
    open_chat(page)
    page.click("[data-action=ask-for-two]")
    ask(page, "Which is better?", wait=False)
    page.wait_for_selector("[data-comparison=open]")
    shoot(page, "open")
    expect(page.locator("[data-comparison] [data-version]")).to_have_count(0)  # versions are hidden until the choice
    expect(page.locator("[data-action=send]")).to_be_disabled()
    page.wait_for_selector("[data-comparison] [role=group]:focus")
    before = len(feedback(served, "compare"))
    page.keyboard.press("2")
    page.keyboard.press("2")  # impatience is no second vote
    page.wait_for_selector("[data-comparison=judged]")
    expect(page.locator("[data-outcome] [data-version]")).to_have_count(2)
    page.wait_for_selector("[data-candidate=B].chosen")
    shoot(page, "judged")
    assert len(feedback(served, "compare")) == before + 1
    vote = feedback(served, "compare")[0]
    assert vote["payload"]["winner"] == "b"
    assert vote["payload"]["dwell_ms"] >= 0
    page.click("[data-action=ask-for-two][aria-pressed=true]")
    page.wait_for_selector("[data-action=ask-for-two][aria-pressed=false]")
    page.fill(COMPOSER, "It goes on from B")
    page.press(COMPOSER, "Enter")
    page.wait_for_selector("[data-role=user]:has-text('It goes on from B')")
    page.wait_for_selector(DONE)
    page.reload()
    page.wait_for_selector("[data-role=assistant] [data-siblings='2/2']")


def test_a_blind_pair_stays_blind_over_a_reload_and_can_be_a_tie(page, served):
    open_chat(page)
    ask(page, "One to begin with")
    page.click("[data-action=compare]")
    page.wait_for_selector("[data-comparison=open]")
    page.reload()
    page.wait_for_selector("[data-comparison=open]")
    expect(page.locator("[data-comparison] [data-version]")).to_have_count(0)
    page.click("[data-choice=tie]")
    page.wait_for_selector("[data-comparison=judged]")
    assert feedback(served, "compare")[0]["payload"]["winner"] == "tie"


def test_a_correction_keeps_the_original_and_shows_what_changed(page, served, shoot):
    open_chat(page)
    ask(page, "Something to correct")
    page.click("[data-action=correct]")
    area = page.locator("[data-editor=edit] textarea")
    original = area.input_value()
    words = original.split(" ")
    corrected = " ".join(["Corrected", *words[1:]])
    area.fill(corrected)
    shoot(page, "editing")
    page.click("[data-editor=edit] [data-action=save]")
    page.wait_for_selector("[data-diff] ins:has-text('Corrected')")
    expect(page.locator("[data-diff] del").first).to_have_text(words[0])
    shoot(page, "diff")
    page.click("[data-view=original]")
    page.wait_for_selector("[data-corrected=original]")
    assert answer_text(page).startswith(words[0])
    page.click("[data-view=corrected]")
    page.wait_for_selector("[data-corrected=corrected]")
    assert answer_text(page).startswith("Corrected")
    newest = feedback(served, "edit")[0]
    assert newest["payload"]["content"] == corrected
    assert newest["usable"] is True
    page.reload()
    page.wait_for_selector("[data-diff] ins")


def test_a_demonstration_becomes_a_sibling(page, served):
    open_chat(page)
    ask(page, "What would you say?")
    open_menu(page, page.locator("[data-menu=answer]"), "demo")
    page.fill("[data-editor=demo] textarea", "This is how *I* would answer.")
    page.click("[data-editor=demo] [data-action=save]")
    page.wait_for_selector("[data-role=assistant] [data-siblings='2/2']")
    assert answer_text(page) == "This is how I would answer."
    expect(last(page, "[data-role=assistant] .person")).to_contain_text("written by")
    assert feedback(served, "demo")[0]["usable"] is True
    page.click("[data-role=assistant] [aria-label='Previous branch']")
    page.wait_for_selector("[data-role=assistant] [data-version]")


def test_consent_is_off_for_everybody_but_the_owner_and_said_so(make_page, served):
    page = make_page()
    page.add_init_script("localStorage.setItem('tutee.actor', 'visitor')")
    open_chat(page)
    ask(page, "Learn nothing from this")
    page.click("[data-action=thumb-up]")
    page.wait_for_selector("[data-dialog=thumb]:has-text('Not used for training')")
    escape(page, "[data-dialog=thumb]")
    page.click("[data-action=settings]")
    page.wait_for_selector("[data-consent=false]")
    page.click("[data-consent]")
    page.wait_for_selector("[data-consent=true]")
    toast(page, "may learn")
    told = served.call("GET", "/me", headers={"X-Tutee-Actor": "visitor"})
    assert told["consent"] == {"train": True}
    assert told["actor"]["handle"] == "visitor"
    assert served.call("GET", "/conversations?q=Learn nothing")["data"] == [], "chats of others are not the owner's"
