"""A machine without a C compiler, or with the C code switched off: PyTorch gives the same numbers within rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine.conftest import random_lora
from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.model import compiled
from tutee.model.matrix_unit import library
from tutee.model.pretrained import load_pretrained

SWITCHES = ["TUTEE_KERNELS=off", "CC=no-such-compiler"]


@contextmanager
def without_c(switch: str, cache: Path) -> Iterator[None]:
    name, value = switch.split("=")
    remembered = (compiled.load, compiled.load_amx, library)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TUTEE_KERNELS", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv(name, value)
        for function in remembered:
            function.cache_clear()
        try:
            yield
        finally:
            for function in remembered:
                function.cache_clear()


def logprobs(folder: Path, dtype: str, prompts: list[list[int]], native: bool | None = None) -> Tensor:
    """Of all tokens but the first, prompt by prompt, by the base and by an adapter."""
    model = load_pretrained(folder, dtype)
    with closing(Engine(model, cache_tokens=1024, max_step_tokens=40, autostart=False)) as engine:
        assert native is None or engine._stepper.runner._served.native == native
        engine.add_version("one", random_lora(model.config, 1))
        scored = engine.score(prompts) + engine.score(prompts, version="one")
        return torch.tensor([value for values in scored for value in values])


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_numbers_are_as_near_to_the_exact_ones(
    tiny_folder: Path, prompts: list[list[int]], switch: str, tmp_path: Path
) -> None:
    exact = logprobs(tiny_folder, "float32", prompts)
    with_c = logprobs(tiny_folder, "bfloat16", prompts)
    with without_c(switch, tmp_path):
        without = logprobs(tiny_folder, "bfloat16", prompts, native=False)
    error = (without - exact).square().mean().sqrt()
    assert error < 0.02 * exact.std()
    assert error < 2 * (with_c - exact).square().mean().sqrt() + 1e-3
    torch.testing.assert_close(without, with_c, atol=0.2, rtol=0)


@pytest.mark.parametrize("precision", ["", "int8", "int4"])
def test_answers_have_their_seed_and_their_length(
    tiny_folder: Path, prompts: list[list[int]], precision: str, tmp_path: Path
) -> None:
    model = load_pretrained(tiny_folder, "bfloat16")
    with without_c(SWITCHES[0], tmp_path), closing(Engine(model, precision=precision, autostart=False)) as engine:
        assert not engine._stepper.runner._served.native
        params = SamplingParams(seed=3, top_p=0.9, top_k=50, frequency_penalty=0.5, max_tokens=10, ignore_eos=True)
        first, second = (engine.generate(prompts[:1], params)[0][0] for _ in range(2))
        assert first.token_ids == second.token_ids
        assert [len(group[0].token_ids) for group in engine.generate(prompts, params)] == [10] * len(prompts)
