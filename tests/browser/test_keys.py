"""Whoever runs the server makes a key in the page, gives it to a script, and takes it back."""

from __future__ import annotations

import httpx

from tests.browser.steps import confirm, copied, expect, toast
from tests.browser.test_access import AXE, tab_to, violations


def test_a_key_is_made_used_and_revoked(make_page, served, shoot):
    page = make_page()
    page.goto("/")
    page.click("[data-sidebar] a[href='#/keys']")
    page.wait_for_selector("[data-keys='0']")
    shoot(page, "none")

    page.fill("[data-key-form] input[required]", "nightly evals")
    tab_to(page, "[data-key-form] select")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[data-key-form] select")).to_have_value("1")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[data-key-form] select")).to_have_value("2")
    page.check("[data-reach=some]")
    page.uncheck("[data-scope='model.request']")
    page.check("[data-scope='files.read']")
    shoot(page, "form")
    page.click("[data-action=create-key]")
    page.wait_for_selector("[data-fresh-key] code")
    narrow = page.inner_text("[data-fresh-key] code")
    assert copied(page, page.locator("[data-fresh-key] [data-action=copy]")) == narrow
    shoot(page, "made")
    page.wait_for_selector("[data-keys='1']")
    if AXE.is_file():
        assert violations(page) == []
    row = page.locator("[data-key]")
    expect(row).to_contain_text("files.read")
    expect(row).to_contain_text("until")

    page.click("[data-action=kept]")
    page.wait_for_selector("[data-fresh-key]", state="detached")
    assert narrow not in page.content(), "it is shown once"
    authorised = {"Authorization": f"Bearer {narrow}"}
    assert httpx.get(f"{served.url}/v1/files", headers=authorised, timeout=30).status_code == 200
    assert httpx.get(f"{served.url}/v1/fine_tuning/jobs", headers=authorised, timeout=30).status_code == 403

    page.reload()
    page.wait_for_selector("[data-keys='1']")
    page.click("[data-action=revoke]")
    confirm(page)
    toast(page, "opens nothing any more")
    page.wait_for_selector("[data-keys='0']")
    assert httpx.get(f"{served.url}/v1/files", headers=authorised, timeout=30).status_code == 401


def test_projects_keep_their_keys_apart(make_page, make_served, shoot):
    page = make_page(make_served())
    page.goto("/#/keys")
    page.wait_for_selector("[data-keys='0']")
    page.fill("[data-key-form] input[required]", "first")
    page.click("[data-action=create-key]")
    page.wait_for_selector("[data-keys='1']")
    page.click("[data-action=new-project]")
    page.wait_for_selector("form:has([data-action=create-project]) input:focus")  # one types the name at once
    page.keyboard.type("The other team")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-project][aria-pressed=true]:has-text('The other team')")
    page.wait_for_selector("[data-keys='0']")
    shoot(page, "other")
    page.click("[data-project=proj_default]")
    page.wait_for_selector("[data-keys='1']")


def test_only_the_operator_sees_the_way_there(make_page, served):
    page = make_page()
    page.route("**/v1/tutee/me", lambda route: route.fulfill(json=route.fetch().json() | {"operator": False}))
    page.goto("/#/keys")
    page.wait_for_selector(":text('Keys are for whoever runs this server.')")
    expect(page.locator("[data-sidebar] a[href='#/keys']")).to_have_count(0)
