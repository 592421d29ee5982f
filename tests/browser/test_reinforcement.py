"""Watching a run: a script starts a reinforcement job over the API, and the page shows live what it learns."""

from __future__ import annotations

import io
import json

import openai

from tests.browser.scripted_model import SHORT
from tests.browser.test_access import AXE, violations

JOB_MS = 240_000
GRADER = {
    "type": "text_similarity",
    "name": "plain",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference }}",
    "evaluation_metric": "fuzzy_match",
}
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
        numbers = {"n_epochs": 1, "batch_size": 2, "compute_multiplier": 0.5, "eval_interval": 5, "eval_samples": 1}
        method = {
            "grader": GRADER,
            "hyperparameters": numbers,
            "x_settings": {"rank": 2, "max_tokens": 12},
            "x_exam": EXAM,
        }
        asked = {"type": "reinforcement", "reinforcement": method}
        return client.fine_tuning.jobs.create(model="scripted", training_file=file.id, method=asked).id  # type: ignore


def test_a_reinforcement_job_is_watched_live(make_page, make_served, shoot):
    served = make_served()
    page = make_page(served)
    job = start(served)
    page.goto("/#/improve")
    page.wait_for_selector(f"[data-job='{job}'] [data-stage=reinforce]", timeout=JOB_MS)
    page.wait_for_selector("[data-job]:not([data-status=succeeded]) [data-curve=reward]", timeout=JOB_MS)
    assert page.locator("[data-step]").inner_text().endswith("of 5")
    shoot(page, "running")
    page.wait_for_selector("[data-sample]", timeout=JOB_MS)
    sample = page.locator("[data-sample]").first.inner_text()
    assert "What about topic" in sample
    assert "reward" in sample
    page.wait_for_selector("[data-status=succeeded], [data-status=failed]", timeout=JOB_MS)
    assert page.locator("[data-status=succeeded]").count() >= 1, page.locator("[data-job]").inner_text()
    drawn = page.locator("[data-curves] [data-curve]").evaluate_all("all => all.map(one => one.dataset.curve)")
    assert [name for name in drawn if name in WATCHED] == WATCHED
    assert page.locator("[data-curve=reward] canvas").count() == 1
    label = page.get_attribute("[data-curve=reward] [role=img]", "aria-label")
    assert label.startswith("Reward: 5 points, from ")
    shoot(page, "finished")
    if AXE.is_file():
        assert violations(page) == []

    page.goto("/#/")
    page.goto("/#/improve")
    page.click(f"[data-job-row='{job}'] a >> nth=0")
    page.wait_for_selector(f"[data-job='{job}'] [data-curve=reward] canvas")
    assert page.url.endswith(f"#/improve/{job}")


def test_a_job_that_is_not_there_says_so(page):
    page.goto("/#/improve/ftjob-nothing")
    page.wait_for_selector("[data-toast]")
    assert page.locator("[data-job]").count() == 0
