"""Fixtures of the model tests."""

from pathlib import Path

import pytest

from tests.model.families import default_model_folder


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's folder."""
    return default_model_folder(tmp_path_factory)
