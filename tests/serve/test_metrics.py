"""What `/metrics` says after real requests, read as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.conftest import Walk, serving
from tutee.settings import Settings

TOKENS = 12
BODY = {"model": "chat", "max_tokens": TOKENS, "ignore_eos": True, "messages": [{"role": "user", "content": "x" * 40}]}


def scrape(http: httpx.Client) -> dict[str, dict[str, float]]:
    """Sample name → labels as `a=b,c=d` → value."""
    reply = http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_a_scrape_after_real_requests(make_home: Callable[..., Settings]) -> None:
    with serving(make_home()) as running, running.http() as http:
        for _ in range(2):  # the second prompt is in the cache
            assert http.post("/v1/chat/completions", json=BODY).status_code == 200
        walk = Walk(http, sampling={"max_tokens": TOKENS, "ignore_eos": True})
        answer = walk.ask("Hello")["messages"][0]
        walk.call("POST", "/feedback", {"kind": "thumb", "message_id": answer["id"], "value": 1})
        assert http.get("/v1/nothing").status_code == 404
        seen = scrape(http)
        version = running.services.live.chat.version.id
    assert seen["tutee_generated_tokens_total"] == {f"version={version}": 3 * TOKENS}
    assert seen["tutee_engine_requests_total"][""] == 3
    assert seen["tutee_prompt_tokens_total"][""] > seen["tutee_cached_tokens_total"][""] > 0
    assert seen["tutee_engine_failures_total"][""] == 0
    assert seen["tutee_time_to_first_token_seconds_count"][""] == 3
    assert seen["tutee_queue_seconds_count"][""] == 3
    assert 0 <= seen["tutee_queue_seconds_sum"][""] <= seen["tutee_time_to_first_token_seconds_sum"][""]
    assert seen["tutee_inter_token_seconds_count"][""] == 3 * (TOKENS - 1)
    assert seen["tutee_batch_size_count"][""] == seen["tutee_engine_steps_total"][""] >= 3 * TOKENS
    assert seen["tutee_engine_running"][""] == seen["tutee_engine_waiting"][""] == 0
    assert seen["tutee_engine_blocks_total"][""] > seen["tutee_engine_blocks_cached"][""] > 0
    assert seen["tutee_answers_being_written"][""] == 0
    assert seen["tutee_feedback_total"] == {"kind=thumb": 1}
    requests = seen["tutee_http_requests_total"]
    assert requests["method=POST,route=/v1/chat/completions,status=200"] == 2
    assert requests["method=POST,route=/v1/tutee/conversations/{id}/generate,status=202"] == 1


@pytest.mark.parametrize("name", ["time_to_first_token_seconds", "inter_token_seconds", "queue_seconds", "batch_size"])
def test_histograms_rise_to_their_count(http: httpx.Client, name: str) -> None:
    http.post("/v1/chat/completions", json=BODY)
    seen = scrape(http)
    heights = list(seen[f"tutee_{name}_bucket"].values())
    assert heights == sorted(heights)
    assert heights[-1] == seen[f"tutee_{name}_count"][""] > 0


def test_every_name_is_documented(http: httpx.Client) -> None:
    from tutee.serve import metrics

    http.post("/v1/chat/completions", json=BODY)
    for name in scrape(http):
        if not name.endswith("_created"):
            bare = name.removeprefix("tutee_")
            for ending in ("_bucket", "_count", "_sum"):
                bare = bare.removesuffix(ending)
            assert bare in (metrics.__doc__ or ""), name
