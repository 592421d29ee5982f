"""Vectors of texts, through the official client."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from tests.serve.conftest import Running
from tutee.model.layout import Layout


@pytest.fixture
def sdk(server: Running) -> openai.OpenAI:
    """Not strict: the client checks the types before it unpacks the base64 that it asked for."""
    return server.sdk()


def vectors(sdk: openai.OpenAI, given: Any, **fields: Any) -> np.ndarray:
    reply = sdk.embeddings.create(model="tiny", input=given, **fields)
    assert [row.index for row in reply.data] == list(range(len(reply.data)))
    assert reply.usage.total_tokens == reply.usage.prompt_tokens > 0
    return np.array([row.embedding for row in reply.data])


def test_a_vector_is_the_mean_of_the_hidden_states(server: Running, sdk: openai.OpenAI) -> None:
    model = server.services.live.base.model
    ids = model.tokenizer.encode_document("some words")
    layout = Layout.packed([len(ids)])
    with torch.no_grad():
        mean = model.decoder(torch.tensor(ids), layout.positions, layout).double().mean(0).numpy()
    assert np.allclose(vectors(sdk, "some words")[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_both_encodings_hold_the_same_numbers(server: Running, sdk: openai.OpenAI) -> None:
    texts = ["one", "two three", "four"]
    packed, plain = vectors(sdk, texts), vectors(server.strict(), texts, encoding_format="float")
    assert np.abs(packed - plain).max() <= 1e-6
    assert np.allclose(np.linalg.norm(plain, axis=1), 1.0, atol=1e-6)


def test_token_ids_are_the_text(server: Running, sdk: openai.OpenAI) -> None:
    ids = server.services.live.base.model.tokenizer.encode_document("two three")
    expected = vectors(sdk, "two three")
    assert np.array_equal(vectors(sdk, ids), expected)
    assert np.array_equal(vectors(sdk, [ids, ids]), np.repeat(expected, 2, axis=0))


def test_as_many_as_openai_takes(sdk: openai.OpenAI) -> None:
    texts = [f"{i}" for i in range(2048)]
    found = vectors(sdk, texts)
    assert found.shape == (2048, 32)
    assert np.allclose(found[2047], vectors(sdk, "2047")[0], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input[1]", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "array_above_max_length"),
        ({"input": [100257]}, "input", "invalid_value"),
        ({"input": "a" * 5000}, "input", "context_length_exceeded"),
        ({"dimensions": 8}, "dimensions", "unsupported_parameter"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, fields: dict[str, Any], param: str, code: str) -> None:
    reply = http.post("/v1/embeddings", json={"model": "tiny", "input": "x"} | fields)
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (param, code)


def test_all_dimensions_may_be_asked_for(sdk: openai.OpenAI) -> None:
    assert vectors(sdk, "x", dimensions=32).shape == (1, 32)
