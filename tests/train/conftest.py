"""A fresh tiny model for every test that trains."""

import pytest
import torch

from tutee.model.pretrained import Pretrained

from .tiny_training import tiny_model


@pytest.fixture
def model() -> Pretrained:
    torch.set_num_threads(1)
    return tiny_model()
