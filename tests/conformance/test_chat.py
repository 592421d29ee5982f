"""T13–T34: chat completions, one question and one answer at a time."""

from __future__ import annotations

import concurrent.futures
import math
from typing import Any

import httpx
import openai
import pytest

from tests.conformance.conftest import ServerProcess

HELLO: list[Any] = [{"role": "user", "content": "Say hello to the crew of a ship."}]


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:
    return client.chat.completions.create(**({"model": model, "messages": HELLO, "max_tokens": 12} | options))


def refused(client: openai.OpenAI, model: str, **options: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, model, **options)
    return caught.value


@pytest.mark.conformance("T13")
def test_minimal(strict_client: openai.OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Answer with one word: what colour is grass?"}]
    reply = strict_client.chat.completions.create(model=model, messages=messages, temperature=0)
    choice, usage = reply.choices[0], reply.usage
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert usage is not None
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens


@pytest.mark.conformance("T14")
def test_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "gpt-nothing")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.conformance("T15")
def test_no_messages(client: openai.OpenAI, model: str) -> None:
    assert refused(client, model, messages=[]).param == "messages"


@pytest.mark.conformance("T16")
def test_unknown_role(client: openai.OpenAI, model: str) -> None:
    assert refused(client, model, messages=[{"role": "wizard", "content": "x"}]).param == "messages[0].role"


@pytest.mark.conformance("T17")
@pytest.mark.parametrize("temperature", [2.01, -0.1])
def test_temperature_out_of_range(client: openai.OpenAI, model: str, temperature: float) -> None:
    assert refused(client, model, temperature=temperature).param == "temperature"


@pytest.mark.conformance("T18")
def test_top_p(client: openai.OpenAI, model: str) -> None:
    greedy = ask(client, model, temperature=0).choices[0].message.content
    assert ask(client, model, top_p=0, seed=1).choices[0].message.content == greedy
    assert refused(client, model, top_p=1.1).param == "top_p"


@pytest.mark.conformance("T19")
def test_n(strict_client: openai.OpenAI, client: openai.OpenAI, model: str) -> None:
    reply = ask(strict_client, model, n=3, temperature=1, seed=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) == 3
    assert reply.usage.completion_tokens > 12
    for n in (0, 129):
        assert refused(client, model, n=n).param == "n"


@pytest.mark.conformance("T20")
def test_one_token(strict_client: openai.OpenAI, model: str) -> None:
    reply = strict_client.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=1)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 1


@pytest.mark.conformance("T21")
def test_two_names_of_one_limit(client: openai.OpenAI, model: str) -> None:
    assert refused(client, model, max_tokens=4, max_completion_tokens=5).param == "max_tokens"


@pytest.mark.conformance("T22")
def test_stop(client: openai.OpenAI, model: str) -> None:
    assert refused(client, model, stop=["a", "b", "c", "d", "e"]).param == "stop"
    whole = ask(client, model, temperature=0, max_tokens=30).choices[0].message.content
    middle = len(whole) // 2
    for stop in (whole[middle], whole[middle - 4 : middle + 4]):  # the second one spans tokens
        choice = ask(client, model, temperature=0, max_tokens=30, stop=stop).choices[0]
        assert choice.message.content == whole[: whole.index(stop)]
        assert choice.finish_reason == "stop"


@pytest.mark.conformance("T23")
def test_seed(client: openai.OpenAI, model: str) -> None:
    first, again, other = (ask(client, model, temperature=1, seed=seed) for seed in (11, 11, 12))
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.system_fingerprint == again.system_fingerprint
    assert other.choices[0].message.content != first.choices[0].message.content


@pytest.mark.conformance("T24", slow=True)
def test_company_changes_nothing(client: openai.OpenAI, model: str) -> None:
    alone = ask(client, model, temperature=0, max_tokens=40).choices[0].message.content

    def one(i: int) -> str:
        messages = HELLO if i == 16 else [{"role": "user", "content": f"Count from {i} to {i + 20}."}]
        reply = ask(client, model, messages=messages, temperature=0, max_tokens=40)
        return str(reply.choices[0].message.content)

    with concurrent.futures.ThreadPoolExecutor(33) as pool:
        answers = list(pool.map(one, range(33)))
    assert answers[16] == alone


@pytest.mark.conformance("T25")
def test_logit_bias(client: openai.OpenAI, http: httpx.Client, model: str) -> None:
    scored = ask(client, model, temperature=0, max_tokens=1, logprobs=True).choices[0].logprobs
    first = scored.content[0].token
    token = http.post("/tokenize", json={"model": model, "prompt": first, "add_special_tokens": False}).json()
    banned = {str(id): -100 for id in token["tokens"]}
    assert ask(client, model, temperature=0, max_tokens=1, logit_bias=banned).choices[0].message.content != first
    assert refused(client, model, logit_bias={"5": 101}).param == "logit_bias.5"
    assert refused(client, model, logit_bias={"five": 1}).param == "logit_bias"


@pytest.mark.conformance("T26")
def test_logprobs(strict_client: openai.OpenAI, client: openai.OpenAI, model: str) -> None:
    choice = ask(strict_client, model, logprobs=True, seed=2).choices[0]
    assert len(choice.logprobs.content) == 12
    assert bytes(byte for entry in choice.logprobs.content for byte in entry.bytes).decode() == choice.message.content
    assert all(entry.top_logprobs == [] for entry in choice.logprobs.content)
    assert refused(client, model, top_logprobs=5).param == "top_logprobs"
    assert refused(client, model, logprobs=True, top_logprobs=21).param == "top_logprobs"


@pytest.mark.conformance("T27")
def test_greedy_takes_the_likeliest(client: openai.OpenAI, model: str) -> None:
    choice = ask(client, model, temperature=0, logprobs=True, top_logprobs=3).choices[0]
    for entry in choice.logprobs.content:
        assert entry.logprob == max(other.logprob for other in entry.top_logprobs) <= 0
        assert math.isfinite(entry.logprob)


@pytest.mark.conformance("T28")
def test_a_prompt_over_the_context(client: openai.OpenAI, model: str) -> None:
    long: list[Any] = [{"role": "user", "content": "word " * 20_000}]
    assert refused(client, model, messages=long).code == "context_length_exceeded"


@pytest.mark.conformance("T29")
def test_text_parts_are_a_text(client: openai.OpenAI, model: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
    texts = [ask(client, model, messages=m, temperature=0).choices[0].message.content for m in (HELLO, parts)]
    assert texts[0] == texts[1]


@pytest.mark.conformance("T30")
def test_image_part(client: openai.OpenAI, model: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}, image]}]
    assert refused(client, model, messages=messages).param == "messages[0].content[1]"


@pytest.mark.conformance("T31")
def test_developer_and_two_system_messages(client: openai.OpenAI, model: str) -> None:
    texts = []
    for role in ("developer", "system"):
        messages = [{"role": role, "content": "Be brief."}, *HELLO]
        texts.append(ask(client, model, messages=messages, temperature=0).choices[0].message.content)
    assert texts[0] == texts[1]
    two = [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be kind."}, *HELLO]
    assert ask(client, model, messages=two).choices[0].message.content is not None


@pytest.mark.conformance("T32")
def test_null_is_absent(http: httpx.Client, model: str) -> None:
    absent = dict.fromkeys(("user", "stop", "tools", "response_format", "tool_choice", "logit_bias", "metadata", "n"))
    reply = http.post("/v1/chat/completions", json={"model": model, "messages": HELLO, "max_tokens": 2} | absent)
    assert reply.status_code == 200, reply.text


@pytest.mark.conformance("T33")
def test_unknown_field(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=HELLO, max_tokens=2, extra_body={"foo": 1}
    )
    assert raw.headers["x-ignored-params"] == "foo"


@pytest.mark.conformance("T33", slow=True)
def test_unknown_field_of_a_strict_server(own_server: Any) -> None:
    server: ServerProcess = own_server(strict="true")
    with server.client() as client:
        error = refused(client, server.model.name, extra_body={"foo": 1})
        assert (error.param, error.code) == ("foo", "unknown_parameter")
        assert ask(client, server.model.name).choices[0].message.content


@pytest.mark.conformance("T34")
@pytest.mark.parametrize(
    "field", [{"audio": {"voice": "alloy", "format": "wav"}}, {"modalities": ["audio"]}], ids=["audio", "modalities"]
)
def test_audio(client: openai.OpenAI, model: str, field: dict[str, Any]) -> None:
    error = refused(client, model, **field)
    assert (error.param, error.code) == (next(iter(field)), "unsupported_parameter")
