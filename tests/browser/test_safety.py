"""What a hostile answer can do: nothing. It runs no script, fetches nothing, imitates no part of the page."""

from __future__ import annotations

import httpx

from tests.browser.steps import ask, expect, open_chat

ELSEWHERE = "https://elsewhere.test"
HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload='window.pwned = 1'><a xlink:href='javascript:window.pwned=1'>x</a></svg>",
    "[click](javascript:window.pwned=1) [data](data:text/html,<script>window.pwned=1</script>)",
    "<a href='  jAvAsCrIpT:window.pwned=1'>x</a><a href='vbscript:x'>y</a>",
    f"![secret]({ELSEWHERE}/markdown.png)",
    f"![secret](//elsewhere.test/protocol-relative.png) <img srcset='{ELSEWHERE}/s.png 2x'>",
    f'<div style="background:url({ELSEWHERE}/css.png);position:fixed;inset:0;z-index:9999">cover</div>',
    f"<style>body{{background:url({ELSEWHERE}/style.png)}}</style><link rel=stylesheet href='{ELSEWHERE}/l.css'>",
    f"<video src='{ELSEWHERE}/v.mp4' poster='{ELSEWHERE}/p.png' autoplay></video><audio src='{ELSEWHERE}/a'></audio>",
    f"<iframe src='{ELSEWHERE}/frame'></iframe><object data='{ELSEWHERE}/o'></object><embed src='{ELSEWHERE}/e'>",
    f"<form action='{ELSEWHERE}/steal'><input name=password type=password><button>Log in</button></form>",
    f"<meta http-equiv=refresh content='0;url={ELSEWHERE}'><base href='{ELSEWHERE}/'>",
    "<math><mtext><table><mglyph><style><img src=x onerror='window.pwned=1'></style></mglyph></table></mtext></math>",
    "<div id=root name=body class='dialog toast'>clobber</div><a id=main>x</a>",
    "<details open ontoggle='window.pwned=1'><summary>x</summary></details>",
    "```html\n<script>window.pwned = 1</script>\n```\n`<img src=x onerror=window.pwned=1>`",
    "$\\href{javascript:window.pwned=1}{x}$ and $$\\includegraphics{" + ELSEWHERE + "/tex.png}$$",
    f"| a |\n| - |\n| <img src={ELSEWHERE}/cell.png onerror=window.pwned=1> |",
    f"[x]: {ELSEWHERE} 'title\" onmouseover=window.pwned=1'\n[x]",
]
FORBIDDEN = (
    "script, img, svg:not(.icon), style, link, iframe, object, embed, form, input, video, audio, meta, base, details, "
    "[style], [id], [name]"
)


def test_every_response_has_a_strict_policy(served):
    for path in ("/", "/v1/tutee/me", "/v1/nothing/here", "/theme.js"):
        policy = httpx.get(served.url + path, timeout=60).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy


def test_a_hostile_answer_is_only_text(page, served):
    """The corpus as demonstrations (assistant text), as what a person says, and as the chat's name."""
    conversation = served.call("POST", "/conversations", json={"title": HOSTILE[1]})
    parent = None
    for text in HOSTILE:
        said = {"content": text, "parent_id": parent}
        turn = served.call("POST", f"/conversations/{conversation['id']}/messages", json=said)
        told = {"kind": "demo", "conversation_id": conversation["id"], "parent_id": turn["id"], "content": text}
        parent = served.call("POST", "/feedback", json=told)["message"]["id"]
    served.call("PATCH", f"/conversations/{conversation['id']}", json={"head_message_id": parent})
    page.goto(f"/#/c/{conversation['id']}")
    page.wait_for_selector(f"[data-message='{parent}'] .block", state="attached")
    page.wait_for_selector("math", state="attached")
    expect(page.locator("[data-role=assistant]")).to_have_count(len(HOSTILE))
    assert page.evaluate("window.pwned") is None
    inside = page.locator(".prose").evaluate_all(
        "(all, bad) => all.flatMap(one => [...one.querySelectorAll(bad)].map(x => x.outerHTML))", FORBIDDEN
    )
    assert inside == []
    links = page.locator(".prose a").evaluate_all("all => all.map(one => one.getAttribute('href') ?? '')")
    assert all(link == "" or link.startswith(("http://", "https://", "mailto:")) for link in links)
    handlers = page.locator(".prose *").evaluate_all(
        "all => all.flatMap(x => [...x.attributes]).filter(a => a.name.startsWith('on')).length"
    )
    assert handlers == 0
    page.locator(".prose a").evaluate_all("all => all.forEach(one => one.dispatchEvent(new MouseEvent('mouseover')))")
    assert page.evaluate("window.pwned") is None


def test_scripts_and_styles_cannot_be_put_into_the_page(page):
    """The policy holds in the browser, not only in the header."""
    open_chat(page)
    refused = page.evaluate(
        """() => {
          try { document.body.innerHTML = "<b>x</b>"; return "taken"; } catch (error) { return error.name; }
        }"""
    )
    assert refused == "TypeError"
    ask(page, "Still works")
