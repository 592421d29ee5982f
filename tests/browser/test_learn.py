"""Journeys 3 and 4: collect, press the button, watch, read the verdict, promote, trace, roll back."""

from __future__ import annotations

import time

import pytest

from tests.browser.steps import ask, confirm, expect, open_chat, toast

JOB_MS = 900_000
LABELS = 8


@pytest.fixture(scope="module")
def taught(make_served):
    """A server of its own, with some comparisons and corrections given over HTTP."""
    served = make_served()
    for number in range(LABELS):
        conversation = served.call("POST", "/conversations", json={})["id"]
        said = {"content": f"Question {number}: what about topic {number * 7}?", "parent_id": None}
        turn = served.call("POST", f"/conversations/{conversation}/messages", json=said)
        asked = {"parent_id": turn["id"], "compare": True, "sampling": {"max_tokens": 24}}
        shown = served.call("POST", f"/conversations/{conversation}/generate", json=asked)
        answers = [_finished(served, message["id"]) for message in shown["messages"]]
        winner = "a" if len(answers[0]["content"]) <= len(answers[1]["content"]) else "b"
        vote = {"kind": "compare", "presentation_id": shown["presentation_id"], "winner": winner, "dwell_ms": 4000}
        served.call("POST", "/feedback", json=vote)
        if number % 2:
            better = f"A good answer about topic {number * 7}, short and plain."
            served.call("POST", "/feedback", json={"kind": "edit", "message_id": answers[0]["id"], "content": better})
    return served


def _finished(served, message_id: str) -> dict:
    while (message := served.call("GET", f"/messages/{message_id}"))["state"] == "streaming":
        time.sleep(0.05)
    return message


def test_from_feedback_to_a_version_and_back(make_page, taught, shoot):
    page = make_page(taught)
    page.goto("/#/improve")
    page.wait_for_selector("[data-collected][data-ready=true]")
    expect(page.locator("[data-count=compare] strong")).to_have_text(str(LABELS))
    expect(page.locator("[data-count=edit] strong")).to_have_text(str(LABELS // 2))
    shoot(page, "collected")
    page.click("[data-action=improve]")
    page.wait_for_selector("[data-job]")
    page.wait_for_selector("[data-curve]", timeout=JOB_MS)
    shoot(page, "training")
    page.wait_for_selector("[data-status=succeeded], [data-status=failed]", timeout=JOB_MS)
    shoot(page, "finished")
    assert page.locator("[data-status=succeeded]").count() == 1, page.locator("[data-job]").inner_text()

    page.click("[data-action=open-version]")
    page.wait_for_selector("[data-version-detail='1'] [data-check]")
    page.wait_for_selector("[data-version-detail] [data-score]")
    page.wait_for_selector("[data-feedback]")
    shoot(page, "verdict")
    if page.get_attribute(".gate", "data-verdict") == "pass":
        page.click("[data-action=promote]")
        confirm(page)
    else:
        page.click("[data-action=override]")
        confirm(page, reason="We want to see it work.")
    toast(page, "is live")
    page.wait_for_selector(".top-bar [data-version='1']")
    open_chat(page)
    ask(page, "Who are you now?")
    page.wait_for_selector("[data-role=assistant] [data-version='1']")
    shoot(page, "promoted")

    page.goto("/#/versions/1")
    page.locator("[data-feedback] a").first.click()
    page.wait_for_selector("[data-trace-versions='1'] [data-version='1']")
    shoot(page, "trace")

    page.goto("/#/versions")
    page.wait_for_selector("[data-version-row='1'][data-state=live]")
    page.click("[data-action=rollback]")
    confirm(page, reason="")
    page.wait_for_selector(".top-bar [data-version='0']")
    page.wait_for_selector("[data-version-row='0'][data-state=live]")
    shoot(page, "rolled-back")


def test_nothing_taught_means_nothing_to_press(make_page, make_served):
    page = make_page(make_served())
    page.goto("/#/improve")
    page.wait_for_selector("[data-collected][data-ready=false]")
    expect(page.locator("[data-action=improve]")).to_be_disabled()
