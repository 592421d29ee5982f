"""An engine that has a model for itself keeps only what it multiplies with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams
from tutee.model.logprobs import score
from tutee.model.matmul import Projection
from tutee.model.pretrained import Pretrained, load_pretrained, save_version

from .conftest import random_lora
from .stepping import Asked, assert_same, run

MakeEngine = Callable[..., Engine]
PROMPT = list(range(40, 75))
PARAMS = SamplingParams(max_tokens=12, seed=1, ignore_eos=True, logprobs=0)
ASKED: list[Asked] = [(PROMPT, PARAMS, None), (PROMPT, PARAMS, "v1")]


def answers(engine: Engine) -> list[Completion]:
    if "v1" not in engine.versions:
        engine.add_version("v1", random_lora(engine._model.config, 1))
    return run(engine, ASKED)


@pytest.fixture
def fast(tiny_folder: Path) -> Pretrained:
    return load_pretrained(tiny_folder, "bfloat16")


def bytes_of_matrices(model: Pretrained) -> int:
    matrices = [module.weight for module in model.decoder.modules() if isinstance(module, Projection)]
    return sum(0 if matrix.is_meta else matrix.nbytes for matrix in matrices)


def test_its_parameters_go_once_they_are_packed_and_answers_stay(
    make_engine: MakeEngine, fast: Pretrained, tiny_folder: Path
) -> None:
    if fast.decoder.native is None:
        pytest.skip("no matrix unit here: the parameters are what it multiplies with")
    expected = answers(make_engine(model=load_pretrained(tiny_folder, "bfloat16"), block_size=32))
    engine = make_engine(model=fast, block_size=32, alone=True)
    assert bytes_of_matrices(fast) > 0
    engine.wake()
    assert bytes_of_matrices(fast) == 0
    assert_same(answers(engine), expected)
    engine.sleep()
    assert_same(answers(engine), expected)


def test_what_needs_the_parameters_then_says_how_to_get_them(
    make_engine: MakeEngine, fast: Pretrained, tmp_path: Path
) -> None:
    if fast.decoder.native is None:
        pytest.skip("no matrix unit here: the parameters are what it multiplies with")
    make_engine(model=fast, block_size=32, alone=True).wake()
    uses: tuple[Callable[[], object], ...] = (
        lambda: score(fast.decoder, [PROMPT]),
        lambda: save_version(fast, tmp_path / "out", state=fast.decoder.state_dict()),
        lambda: fast.decoder.packed("int8"),
        lambda: score(copy.deepcopy(fast.decoder), [PROMPT]),
    )
    for use in uses:
        with pytest.raises(RuntimeError, match="load_pretrained"):
            use()


@pytest.mark.parametrize(("dtype", "precision"), [("float32", ""), ("bfloat16", "int8")])
def test_parameters_that_others_multiply_with_stay(
    make_engine: MakeEngine, tiny_folder: Path, dtype: str, precision: str
) -> None:
    model = load_pretrained(tiny_folder, dtype)
    engine = make_engine(model=model, block_size=32, precision=precision, alone=True)
    engine.wake()
    answers(engine)
    assert bytes_of_matrices(model) > 0
    assert len(score(model.decoder, [PROMPT])[0]) == len(PROMPT) - 1
