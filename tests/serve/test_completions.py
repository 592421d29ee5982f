"""Bare completions and scoring, through the official client in strict mode where its types allow."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.serve.conftest import Running
from tutee.model.logprobs import score

PROMPTS = ["Once upon", "A b", "Nothing"]


def complete(sdk: openai.OpenAI, prompt: Any = "Once upon", **fields: Any) -> Any:
    return sdk.completions.create(**{"model": "tiny", "prompt": prompt, "max_tokens": 6, "temperature": 0} | fields)


def refused(http: Any, **fields: Any) -> dict[str, Any]:
    reply = http.post("/v1/completions", json={"model": "tiny", "prompt": "x"} | fields)
    assert reply.status_code == 400, reply.text
    return dict(reply.json()["error"])


def ids_of(server: Running, text: str) -> list[int]:
    return server.services.live.base.model.tokenizer.encode_document(text)


def teacher_forced(server: Running, ids: list[int]) -> list[float]:
    values: list[float] = score(server.services.live.base.model.decoder, [ids])[0].tolist()
    return values


def test_a_text_goes_on_without_a_chat_template(server: Running, sdk: openai.OpenAI) -> None:
    reply = complete(sdk)
    assert (reply.object, reply.model, reply.choices[0].index) == ("text_completion", "tiny", 0)
    assert reply.choices[0].logprobs is None
    ids = ids_of(server, "Once upon")
    assert reply.usage.prompt_tokens == len(ids)
    assert reply.usage.total_tokens == len(ids) + reply.usage.completion_tokens
    assert complete(sdk, ids).choices[0].text == reply.choices[0].text
    assert complete(sdk, [ids]).choices[0].text == reply.choices[0].text


def test_choices_are_in_the_order_of_prompts_then_samples(sdk: openai.OpenAI) -> None:
    together = complete(sdk, PROMPTS, n=2, temperature=1.0, seed=3)
    assert [choice.index for choice in together.choices] == list(range(6))
    for place, prompt in enumerate(PROMPTS):
        alone = complete(sdk, prompt, n=2, temperature=1.0, seed=3)
        assert [c.text for c in alone.choices] == [c.text for c in together.choices[2 * place : 2 * place + 2]]
    assert together.choices[0].text != together.choices[1].text


def test_more_prompts_than_run_at_once(sdk: openai.OpenAI) -> None:
    prompts = [f"number {i}" for i in range(150)]
    texts = [choice.text for choice in complete(sdk, prompts, max_tokens=2).choices]
    assert len(texts) == 150
    assert texts[140] == complete(sdk, prompts[140], max_tokens=2).choices[0].text


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_echo_with_logprobs_is_teacher_forcing(server: Running, sdk: openai.OpenAI, max_tokens: int) -> None:
    text = "Grüße und 🙂 viel"
    reply = complete(server.sdk(), [text, "second one"], echo=True, logprobs=3, max_tokens=max_tokens)
    ids = ids_of(server, text)
    first = reply.choices[0].logprobs
    generated = len(first.tokens) - len(ids)
    assert generated == max_tokens if max_tokens < 2 else generated > 1
    assert (first.token_logprobs[0], first.top_logprobs[0]) == (None, None)
    assert first.token_logprobs[1 : len(ids)] == pytest.approx(teacher_forced(server, ids), abs=1e-5)
    for value, top, token in zip(first.token_logprobs[1:], first.top_logprobs[1:], first.tokens[1:], strict=True):
        assert top[token] == value or max(top.values()) > value
        assert 3 <= len(top) <= 4
    assert reply.choices[0].text.startswith(text)
    assert reply.usage.completion_tokens == generated + (len(reply.choices[1].logprobs.tokens) - 10)
    assert reply.choices[0].finish_reason == "length"


def test_every_prompt_is_scored_though_its_beginning_is_in_the_cache(server: Running) -> None:
    shared = "The same long beginning of all of these questions. "
    prompts = [shared + end for end in ("yes", "no", "maybe", "never")]
    for _ in range(2):
        reply = complete(server.sdk(), prompts, echo=True, logprobs=1, max_tokens=1)
        for prompt, choice in zip(prompts, reply.choices, strict=True):
            expected = teacher_forced(server, ids_of(server, prompt))
            assert choice.logprobs.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-5)


def test_offsets_point_into_the_text(server: Running) -> None:
    reply = complete(server.sdk(), "ab€c", echo=True, logprobs=1, max_tokens=3)
    logprobs, text = reply.choices[0].logprobs, reply.choices[0].text
    assert logprobs.text_offset[:6] == [0, 1, 2, 2, 2, 3]  # the euro sign has three bytes, and a token has one
    assert logprobs.tokens[2] == "bytes:\\xe2"
    assert text[logprobs.text_offset[5]] == "c"


def test_an_end_token_is_counted_and_not_shown(server: Running) -> None:
    # Harnesses drop the last entry, the one new token, whatever it is.
    reply = complete(server.sdk(), "abc", echo=True, logprobs=1, max_tokens=1, logit_bias={"257": 100})
    assert reply.choices[0].text == "abc"
    assert reply.choices[0].logprobs.tokens == ["a", "b", "c", "<|end|>"]
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_stream_says_the_same(server: Running, echo: bool, logprobs: int | None) -> None:
    fields: dict[str, Any] = {"echo": echo, "logprobs": logprobs, "n": 2, "temperature": 1.0, "seed": 1}
    whole = complete(server.sdk(), PROMPTS, **fields)
    chunks = list(complete(server.sdk(), PROMPTS, **fields, stream=True, stream_options={"include_usage": True}))
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], whole.usage.total_tokens)
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
        if logprobs is not None:
            values = [value for part in parts if part.logprobs for value in part.logprobs.token_logprobs]
            assert values == choice.logprobs.token_logprobs


def test_best_of_returns_the_likeliest(server: Running) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "seed": 5, "logprobs": 0}
    every = complete(server.sdk(), n=6, **fields).choices
    mean = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in every]
    best = complete(server.sdk(), n=2, best_of=6, **fields)
    order = sorted(range(6), key=lambda i: mean[i], reverse=True)
    assert [c.text for c in best.choices] == [every[i].text for i in order[:2]]
    assert best.usage.completion_tokens == sum(len(c.logprobs.tokens) for c in every)


def test_stop_ends_the_text(server: Running) -> None:
    whole = complete(server.sdk(), max_tokens=20).choices[0].text
    assert len(whole) > 4
    reply = complete(server.sdk(), max_tokens=20, stop=[whole[3]])
    assert reply.choices[0].text == whole[: whole.index(whole[3])]
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ["a", ""]}, "prompt[1]", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
        ({"prompt": [[1], [True]]}, "prompt[1]", "invalid_type"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
        ({"prompt": [1, 258]}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 2049}, "prompt", "array_above_max_length"),
        ({"prompt": ["a"] * 1000, "n": 10}, "prompt", "array_above_max_length"),
        ({"prompt": "a" * 4095}, "prompt", "context_length_exceeded"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "integer_below_min_value"),
        ({"logprobs": 21}, "logprobs", "integer_above_max_value"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"best_of": 2, "n": 3}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"best_of": 21}, "best_of", "integer_above_max_value"),
        ({"echo": "yes"}, "echo", "invalid_type"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"logit_bias": {"258": 1}}, "logit_bias", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(http: Any, fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(http, **fields)
    assert (error["param"], error["code"]) == (param, code)


def test_an_unknown_model_is_404(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        complete(sdk, model="nobody")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
