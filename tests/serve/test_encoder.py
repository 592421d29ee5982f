"""Vectors of a model made for it: a tiny random BERT in sentence-transformers' form, through the official client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch

from tests.serve.conftest import Running, serving
from tutee.errors import InvalidInput
from tutee.serve.embeddings.encoder import Encoder
from tutee.settings import Settings

st = pytest.importorskip("sentence_transformers", reason="pip install 'tutee[embeddings]'")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "mat", "rain", "roof"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of one layer that reads at most 16 tokens; the mean of its hidden states is the vector."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    plain = tmp_path_factory.mktemp("bert")
    (plain / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(plain / "vocab.txt")).save_pretrained(plain)
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(WORDS), intermediate_size=64, max_position_embeddings=16, **size)
    BertModel(config).save_pretrained(plain)
    reader = Transformer(str(plain), max_seq_length=16)
    out = tmp_path_factory.mktemp("encoders") / "little-bert"
    st.SentenceTransformer(modules=[reader, Pooling(32, "mean")]).save(str(out), safe_serialization=True)
    return out


@pytest.fixture
def running(folder: Path, make_home: Callable[..., Settings]) -> Iterator[Running]:
    with serving(make_home(embedding_model=str(folder))) as server:
        yield server


def test_it_answers_to_its_name_and_to_openais(running: Running, folder: Path) -> None:
    sdk = running.sdk()
    reply = sdk.embeddings.create(model="text-embedding-3-small", input=["cat mat", "rain"])
    assert reply.model == "little-bert"
    assert reply.usage.prompt_tokens == 4 + 3
    expected = st.SentenceTransformer(str(folder), device="cpu").encode(["cat mat", "rain"], normalize_embeddings=True)
    assert np.allclose([row.embedding for row in reply.data], expected, atol=1e-6)
    again = sdk.embeddings.create(model="little-bert", input="rain", encoding_format="float")
    assert np.allclose(again.data[0].embedding, expected[1], atol=1e-6)
    assert len(sdk.embeddings.create(model="tiny", input="rain").data[0].embedding) == 32  # the chat model's own
    assert "little-bert" in [model.id for model in running.strict().models.list()]
    assert running.strict().models.retrieve("text-embedding-3-small").id == "text-embedding-3-small"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": "cat " * 20}, "input", "context_length_exceeded"),
        ({"input": ["cat", "cat " * 20]}, "input[1]", "context_length_exceeded"),
        ({"input": [5, 6]}, "input", "invalid_type"),
        ({"input": "cat", "dimensions": 8}, "dimensions", "unsupported_parameter"),
    ],
)
def test_what_it_cannot_read_is_named(running: Running, fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        running.sdk().embeddings.create(model="little-bert", **fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_folder_that_is_no_model_and_a_pickle_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InvalidInput, match="no model"):
        Encoder(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="pickle"):
        Encoder(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        Encoder(tmp_path)
