"""Moderation over HTTP: shapes, and what is wrong."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tutee.safety.moderation import CATEGORIES


def test_a_result_for_each_text(sdk: openai.OpenAI) -> None:
    reply = sdk.moderations.create(input=["How do I bake bread?", "I hate you, I will kill you"])
    assert reply.model == "tutee-moderation-1"
    assert [result.flagged for result in reply.results] == [False, True]
    for result in reply.results:
        categories = result.categories.model_dump(by_alias=True)
        scores = result.category_scores.model_dump(by_alias=True)
        assert sorted(categories) == sorted(scores) == list(CATEGORIES)
        assert {name: score >= 0.5 for name, score in scores.items()} == categories
        assert result.flagged == any(categories.values())


def test_parts_of_a_message_are_one_text(sdk: openai.OpenAI) -> None:
    whole = sdk.moderations.create(input="I will\nkill you").results[0]
    parts: Any = [{"type": "text", "text": "I will"}, {"type": "text", "text": "kill you"}]
    assert sdk.moderations.create(input=parts, model="omni-moderation-latest").results == [whole]


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        (None, "input", "missing_required_parameter"),
        (3, "input", "invalid_type"),
        ([], "input", "invalid_value"),
        (["a", 3], "input[1]", "invalid_type"),
        (["a"] * 1025, "input", "array_above_max_length"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "input[0]", "unsupported_value"),
        ([{"type": "text"}], "input[0]", "invalid_type"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, given: Any, param: str, code: str) -> None:
    reply = http.post("/v1/moderations", json={"input": given})
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (param, code)
