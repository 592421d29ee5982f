"""The tokenizer over HTTP, in the shapes that evaluation harnesses read."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.serve.conftest import Running


def test_text_to_ids_and_back(http: httpx.Client) -> None:
    text = "Grüße <|end|> 🙂"
    found = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 4096
    assert 257 in found["tokens"]
    assert "<|end|>" in found["token_strs"]
    assert http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": text}
    bare = http.post("/tokenize", json={"model": "tiny", "prompt": text, "add_special_tokens": False}).json()
    assert bare["tokens"] == found["tokens"]  # this tokenizer puts nothing before a text
    assert bare["token_strs"] is None


def test_messages_are_tokenized_as_chat_is(server: Running, http: httpx.Client) -> None:
    messages: Any = [{"role": "user", "content": "Hi <|end|>"}]
    ids = http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    asked = server.sdk().chat.completions.create(model="chat", messages=messages, max_tokens=1)
    assert asked.usage is not None
    assert len(ids) == asked.usage.prompt_tokens
    without = http.post("/tokenize", json={"messages": messages, "add_generation_prompt": False}).json()["tokens"]
    assert ids[: len(without)] == without
    assert len(without) < len(ids)


def test_the_tokenizer_introduces_itself(http: httpx.Client) -> None:
    info = http.get("/tokenizer_info").json()
    assert (info["eos_token"], info["pad_token"], info["bos_token"]) == ("<|end|>", "<|end|>", None)
    assert "add_generation_prompt" in info["chat_template"]
    assert info["additional_special_tokens"] == ["<|start|>", "<|end|>"]
    assert info["add_bos_token"] is False
    eos = http.post("/tokenize", json={"prompt": info["eos_token"], "add_special_tokens": False}).json()["tokens"]
    assert eos == [257]


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("/tokenize", {}, "prompt", "missing_required_parameter"),
        ("/tokenize", {"prompt": 3}, "prompt", "invalid_type"),
        ("/tokenize", {"messages": []}, "messages", "invalid_value"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "tools": [1]}, "tools", "unsupported_parameter"),
        ("/detokenize", {}, "tokens", "missing_required_parameter"),
        ("/detokenize", {"tokens": "abc"}, "tokens", "invalid_type"),
        ("/detokenize", {"tokens": [1, 258]}, "tokens[1]", "invalid_value"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, path: str, body: Any, param: str, code: str) -> None:
    reply = http.post(path, json=body)
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (param, code)


def test_an_unknown_model_is_404(http: httpx.Client) -> None:
    for reply in (
        http.post("/tokenize", json={"model": "nobody", "prompt": "x"}),
        http.get("/tokenizer_info?model=no"),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
