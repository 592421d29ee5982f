"""Two gloo ranks make the runs that one process makes: on fixed data and with answers of their own; copies of an
adapter, copies of all weights, cut weights. A rank that dies takes the others with it, and they say so."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tutee.train.batch import Group
from tutee.train.checkpoint import latest_checkpoint, read_checkpoint
from tutee.train.parallel import Ranks
from tutee.train.record import read_metrics

from .ranks import finish, start
from .tiny_ranks import RUNS
from .tiny_training import examples, singles

PROGRAM = ("-m", "tests.train.tiny_ranks")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """All runs, made by one process and by two."""
    places = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2)}
    ends = finish([process for ranks, place in places.items() for process in start(ranks, *PROGRAM, str(place))])
    assert [status for status, _ in ends] == [0, 0, 0], ends
    return places


def history(place: Path) -> list[dict[str, Any]]:
    return json.loads((place / "history.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.row(13, 17)
@pytest.mark.parametrize("name", ["lora", "copies", "cut", "thumbs", "judge"])
def test_two_ranks_equal_one_on_fixed_data(folders: dict[int, Path], name: str) -> None:
    one, two = (read_metrics(folders[ranks] / name / "metrics.jsonl") for ranks in (1, 2))
    assert len(one) == len(two) == 4
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"time", "stage", "tokens_per_second"}:
            assert theirs[key] == pytest.approx(ours[key], rel=2e-4, abs=2e-5), (name, key)
    at = folders[2] / name / "versions" / "step-000004"
    [saved] = {path.name for path in at.glob("*.safetensors")} & {"model.safetensors", "adapter_model.safetensors"}
    first, second = (load_file(folders[ranks] / name / "versions" / "step-000004" / saved) for ranks in (1, 2))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        # Adam divides by the gradient's size, so a rounding in a gradient near 0 moves a weight by part of a step.
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=2e-3)


@pytest.mark.row(13, 17)
@pytest.mark.parametrize("name", [*RUNS, "front"])
def test_two_ranks_equal_one_with_answers_of_their_own(folders: dict[int, Path], name: str) -> None:
    one, two = (history(folders[ranks] / name) for ranks in (1, 2))
    assert len(one) == len(two) > 1
    for step, (ours, theirs) in enumerate(zip(one, two, strict=True)):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == pytest.approx(value, rel=1e-3, abs=1e-5), (step, key)
    assert len({values["reward"] for values in two}) > 1  # the weights move, and the answers


@pytest.mark.row(30)
@pytest.mark.parametrize("name", RUNS)
def test_answers_do_not_depend_on_the_rank_that_draws_them(folders: dict[int, Path], name: str) -> None:
    for one, two in zip(*(history(folders[ranks] / name) for ranks in (1, 2)), strict=True):
        for exact in ("length", "finished", "distinct_answers", "kept", "too_long_prompts"):
            assert one[exact] == two[exact]
        assert one["reward"] == pytest.approx(two["reward"], abs=1e-12)
        assert two["sampler_gap"] < 1e-6  # every rank's sampler has the weights that the trainers score with


def test_groups_that_say_nothing_are_replaced_on_all_ranks(folders: dict[int, Path]) -> None:
    drawn = history(folders[2] / "grpo-lora")
    assert any(values["zero_variance_groups"] > 0 for values in drawn)
    assert all(values["kept"] == 15 for values in drawn)


@pytest.mark.row(32)
def test_a_killed_rank_ends_the_others_and_the_run_goes_on_bit_for_bit(
    folders: dict[int, Path], tmp_path: Path
) -> None:
    (alive, words), (killed, _) = finish(start(2, *PROGRAM, str(tmp_path), "ppo-lora", "3"))
    assert (alive, killed) == (1, -signal.SIGKILL)
    assert "Rank 0 lost the others: one of them was killed" in words
    place, whole = tmp_path / "ppo-lora", folders[2] / "ppo-lora"
    assert latest_checkpoint(place).name == "step-000002"
    alone = tmp_path / "alone"
    shutil.copytree(place, alone / "ppo-lora")
    resumed = finish(start(2, *PROGRAM, str(tmp_path), "ppo-lora"))
    assert [status for status, _ in resumed] == [0, 0], resumed
    assert history(place) == history(whole)
    ours, theirs = (read_checkpoint(folder / "step-000004") for folder in (place, whole))
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    [(status, words)] = finish(start(1, *PROGRAM, str(alone), "ppo-lora"))  # a checkpoint belongs to no rank
    assert status == 0, words
    for step, (one, two) in enumerate(zip(history(alone / "ppo-lora"), history(whole), strict=True)):
        for key, value in two.items():
            assert one[key] == pytest.approx(value, rel=1e-3, abs=1e-5), (step, key)


def test_ranks_out_of_step_are_stopped_and_one_that_fails_tells_the_others_why() -> None:
    program = """
from tutee.errors import Diverged, InvalidInput
from tutee.train import parallel
with parallel.joined() as ranks:
    assert ranks.gather(ranks.share("abcde")) == list("abcde")
    ranks.require_same("one", "seed")
    try:
        ranks.require_same(str(ranks.rank), "weights")
    except Diverged as error:
        assert "Rank 1 has another weights than rank 0" in str(error), error
    else:
        raise AssertionError("nobody noticed")
    if ranks.rank == 1:
        raise InvalidInput("the judge is away", param="rewards")
    ranks.gather([1])
"""
    (first, words), (second, cause) = finish(start(2, "-c", program))
    assert (first, second) == (1, 1)
    assert "the judge is away" in cause
    assert "Rank 1 ended the run: InvalidInput: the judge is away" in words


def test_every_group_is_dealt_once_and_every_rank_has_as_many_parts() -> None:
    groups = [*singles(5), Group((examples(1, seed=9)[0],), weight=2.0)]
    dealt = [Ranks(rank, 4).parts(groups, token_budget=30) for rank in range(4)]
    assert len({len(parts) for parts in dealt}) == 1
    own = [group for parts in dealt for part, mine in parts if mine for group in part]
    assert sorted(map(id, own)) == sorted(map(id, groups))
    fillers = [group for parts in dealt for part, mine in parts if not mine for group in part]
    assert fillers
    assert all(group.weight == 0 for group in fillers)
