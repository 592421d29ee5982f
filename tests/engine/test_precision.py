"""An engine that serves integers: the same answers in any company, through a sleep, and a refusal of what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained, load_pretrained

PARAMS = SamplingParams(temperature=0.8, max_tokens=12, seed=5, ignore_eos=True)


@pytest.fixture(scope="module")
def fast(tiny_folder: Path) -> Pretrained:
    return load_pretrained(tiny_folder, "bfloat16")


@pytest.mark.parametrize("block_size", [32, 8])  # in C where the machine can, and in PyTorch
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers_answer_batched_as_alone_and_after_a_sleep(
    make_engine: Callable[..., Engine], fast: Pretrained, prompts: list[list[int]], precision: str, block_size: int
) -> None:
    engine = make_engine(model=fast, precision=precision, block_size=block_size)
    plain = make_engine(model=fast, block_size=block_size)
    together = [group[0].token_ids for group in engine.generate(prompts, PARAMS)]
    assert together != [group[0].token_ids for group in plain.generate(prompts, PARAMS)]
    engine.sleep()
    again = [engine.generate([prompt], PARAMS)[0][0].token_ids for prompt in prompts]
    if engine._stepper.runner._served.native:  # PyTorch's bfloat16 promises closeness only
        assert again == together
    else:
        assert [len(tokens) for tokens in again] == [12] * len(prompts)


@pytest.mark.parametrize("precision", ["int3", "float32"])
def test_another_precision_is_refused(make_engine: Callable[..., Engine], fast: Pretrained, precision: str) -> None:
    with pytest.raises(InvalidInput, match="int8 or int4"):
        make_engine(model=fast, precision=precision)


def test_exact_models_are_not_served_in_integers(make_engine: Callable[..., Engine], tiny: Pretrained) -> None:
    with pytest.raises(InvalidInput, match="bfloat16"):
        make_engine(model=tiny, precision="int8")
