"""Watching a run: a script starts a reinforcement job over the API, and the page shows live what it learns."""

from __future__ import annotations

import io
import json
import re
import time

import openai

from tests.browser.scripted_model import SHORT
from tests.browser.steps import expect, toast
from tests.browser.test_access import AXE, violations

JOB_MS = 900_000
GRADER = {
    "type": "text_similarity",
    "name": "plain",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference }}",
    "evaluation_metric": "fuzzy_match",
}
MAX_TOKENS = 48
"""So many that a step takes a while: who looks must come in the midst of the job, however seldom he gets round to it.
More steps would not do: as it learns the one of two answers, losing the other trips a wire from the sixth on."""
EXAM = {"prompts": 2, "max_tokens": 8, "probe_items": 8, "probe_tokens": 4}
WATCHED = ["reward", "kl", "entropy", "length", "clip_fraction", "zero_variance_groups"]


def start(served) -> str:
    """A job of five steps that rewards the shorter of the two things that the model says; its id."""
    rows = [
        {"messages": [{"role": "user", "content": f"What about topic {i}?"}], "reference": SHORT.strip()}
        for i in range(10)
    ]
    lines = "\n".join(map(json.dumps, rows)).encode()
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
        file = client.files.create(file=("rows.jsonl", io.BytesIO(lines)), purpose="fine-tune")
        numbers = {
            "n_epochs": 1,
            "batch_size": 2,
            "compute_multiplier": 0.5,
            "eval_interval": 5,
            "eval_samples": 1,
        }
        method = {
            "grader": GRADER,
            "hyperparameters": numbers,
            "x_settings": {"rank": 2, "max_tokens": MAX_TOKENS},
            "x_exam": EXAM,
        }
        asked = {"type": "reinforcement", "reinforcement": method}
        return client.fine_tuning.jobs.create(model="scripted", training_file=file.id, method=asked).id  # type: ignore


def in_its_midst(served, job: str) -> dict:
    """What the server says of the job when it has learned for two steps and is not done."""
    deadline = time.monotonic() + JOB_MS / 1000
    while time.monotonic() < deadline:
        found = served.call("GET", f"/jobs/{job}")
        assert found["status"] not in ("failed", "succeeded"), found
        progress = found["progress"] or {}
        if progress.get("stage") == "reinforce" and len(found["series"].get("reward", [])) > 1 and progress["samples"]:
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_a_reinforcement_job_is_watched_live(make_page, make_served, shoot):
    served = make_served()
    page = make_page(served)
    job = start(served)
    moment = in_its_midst(served, job)
    # However fast the machine learns and however slow the page looks: this moment is seen.
    page.route(f"**/jobs/{job}", lambda route: route.fulfill(json=moment))
    page.goto(f"/#/improve/{job}")
    page.wait_for_selector(f"[data-job='{job}'] [data-stage=reinforce]")
    page.wait_for_selector("[data-job]:not([data-status=succeeded]) [data-curve=reward] canvas")
    expect(page.locator("[data-step]")).to_have_text(re.compile("of 5$"))
    sample = page.locator("[data-sample]").first
    expect(sample).to_contain_text("What about topic")
    expect(sample).to_contain_text("reward")
    shoot(page, "running")
    page.route(f"**/jobs/{job}", lambda route: route.abort())  # over the other: no question gets through between them
    page.wait_for_selector("[data-away]")
    page.unroute_all()
    page.wait_for_selector("[data-away]", state="detached")
    page.wait_for_selector("[data-status=succeeded], [data-status=failed]", timeout=JOB_MS)
    assert page.locator("[data-status=succeeded]").count() >= 1, page.locator("[data-job]").inner_text()
    drawn = page.locator("[data-curves] [data-curve]").evaluate_all("all => all.map(one => one.dataset.curve)")
    assert [name for name in drawn if name in WATCHED] == WATCHED
    expect(page.locator("[data-curve=reward] canvas")).to_have_count(1)
    label = page.get_attribute("[data-curve=reward] [role=img]", "aria-label")
    assert label.startswith("Reward: 5 points, from ")
    shoot(page, "finished")
    if AXE.is_file():
        assert violations(page) == []

    page.goto("/")
    page.click("[data-sidebar] a[href='#/improve']")
    page.click(f"[data-job-row='{job}'] a >> nth=0")
    page.wait_for_url(f"**/#/improve/{job}")
    page.wait_for_selector(f"[data-job='{job}'] [data-curve=reward] canvas")


def test_a_paused_job_waits_until_it_is_resumed(make_page, make_served, shoot):
    served = make_served()
    page = make_page(served)
    with served.worker_at_rest():  # so that the job cannot be over before it is paused
        job = start(served)
        page.goto(f"/#/improve/{job}")
        page.click("[data-action=pause-job]")
        page.wait_for_selector(f"[data-job='{job}'][data-status=paused]")
        expect(page.locator(f"[data-job-row='{job}']")).to_contain_text("paused")
        shoot(page, "paused")
    page.reload()
    page.wait_for_selector(f"[data-job='{job}'][data-status=paused]")
    assert served.call("GET", f"/jobs/{job}")["status"] == "paused"
    page.click("[data-action=resume-job]")
    page.wait_for_selector(f"[data-job='{job}'][data-status=succeeded]", timeout=JOB_MS)


def test_a_job_that_is_not_there_says_so(page):
    page.goto("/#/improve/ftjob-nothing")
    toast(page, "There is no job 'ftjob-nothing'")
    expect(page.locator("[data-job]")).to_have_count(0)
