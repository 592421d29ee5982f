"""Safetensors folders: whole, sharded, damaged, pickled."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tutee.errors import InvalidInput
from tutee.model.weights import INDEX, SINGLE, load_safetensors, save_safetensors, weights_sha256

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}


def test_saved_and_loaded_is_the_same_and_leaves_no_other_file(tmp_path: Path) -> None:
    save_safetensors({"a": TENSORS["a"].t(), "b": TENSORS["b"]}, tmp_path / SINGLE)
    loaded = load_safetensors(tmp_path)
    torch.testing.assert_close(loaded["a"], TENSORS["a"].t())
    assert loaded["b"].dtype == torch.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


def test_shards_are_joined_and_a_missing_one_is_named(tmp_path: Path) -> None:
    for name, tensor in TENSORS.items():
        save_file({name: tensor}, tmp_path / f"part-{name}.safetensors")
    index = {"weight_map": {name: f"part-{name}.safetensors" for name in TENSORS}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert set(load_safetensors(tmp_path)) == {"a", "b"}
    (tmp_path / "part-b.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"part-b\.safetensors"):
        load_safetensors(tmp_path)


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file(TENSORS, tmp_path / "elsewhere.safetensors")
    (tmp_path / "model" / INDEX).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(InvalidInput):
        load_safetensors(tmp_path / "model")


@pytest.mark.parametrize(
    "index", ["", "[]", "7", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1, "b": [2]}}', "\xff"]
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX).write_text(index, encoding="latin-1")
    with pytest.raises(InvalidInput, match="not a safetensors index"):
        load_safetensors(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 40, -3])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    content = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(content[:keep])
    with pytest.raises(InvalidInput) as caught:
        load_safetensors(tmp_path)
    assert caught.value.code == "damaged_weights"


def test_a_pickle_is_refused_unopened_and_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_safetensors(tmp_path)
    assert caught.value.code == "not_a_model"
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(InvalidInput) as caught:
        load_safetensors(tmp_path)
    assert caught.value.code == "pickle_refused"


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    first = weights_sha256(tmp_path)
    assert weights_sha256(tmp_path) == first
    save_file(TENSORS | {"b": TENSORS["b"] * 2}, tmp_path / SINGLE)
    assert weights_sha256(tmp_path) != first
    save_file(TENSORS, tmp_path / SINGLE)
    assert weights_sha256(tmp_path) == first
