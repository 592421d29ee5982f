"""Two gloo ranks make the same steps as one process: copies of an adapter, copies of all weights, cut weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tutee.train.batch import Group
from tutee.train.parallel import Ranks
from tutee.train.record import read_metrics

from .tiny_training import examples, singles

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tests.train.tiny_training import tiny_model
from tutee.data.openai_format import Preference, Supervised
from tutee.conversation import Message
from tutee.train import parallel
from tutee.train.methods import METHODS, run
rows = [Supervised(i + 1, (Message("user", f"Say {i}."), Message("assistant", "It is so. " * (i % 4 + 1))))
        for i in range(7)]
pairs = [Preference(i + 1, (Message("user", f"Say {i}."),), Message("assistant", f"{i}"), Message("assistant", "No."))
         for i in range(7)]
settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "token_budget": 60}
with parallel.joined():
    for name, method, data, more in (
        ("lora", "dpo", pairs, {"rank": 2}),
        ("copies", "sft", rows, {"full": True}),
        ("cut", "sft", rows, {"full": True, "shard": True}),
    ):
        run(METHODS[method], tiny_model(), data, settings | more, Path(sys.argv[2]) / name, validation=data[:3])
"""


def start(folder: Path, ranks: int) -> list[subprocess.Popen[bytes]]:
    root = str(Path(__file__).parent.parent.parent)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, root, str(folder)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)},
        )
        for rank in range(ranks)
    ]


@pytest.mark.row(13, 17)
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    processes = [*start(tmp_path / "two", 2), *start(tmp_path / "one", 1)]
    try:
        assert [process.wait(120) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    for name in ("lora", "copies", "cut"):
        one, two = (read_metrics(tmp_path / ranks / name / "metrics.jsonl") for ranks in ("one", "two"))
        assert len(one) == len(two) == 4
        for ours, theirs in zip(one, two, strict=True):
            assert ours.keys() == theirs.keys()
            for key in ours.keys() - {"time", "stage", "tokens_per_second"}:
                assert theirs[key] == pytest.approx(ours[key], rel=2e-4, abs=2e-5), (name, key)
        [saved] = {path.name for path in (tmp_path / "two" / name / "versions" / "step-000004").glob("*.safetensors")}
        weights = (load_file(tmp_path / ranks / name / "versions" / "step-000004" / saved) for ranks in ("one", "two"))
        first, second = weights
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            # Adam divides by the gradient's size, so a rounding in a gradient near 0 moves a weight by part of a step.
            torch.testing.assert_close(second[key], tensor, rtol=0, atol=2e-3)


def test_every_group_is_dealt_once_and_every_rank_has_as_many_parts() -> None:
    groups = [*singles(5), Group((examples(1, seed=9)[0],), weight=2.0)]
    dealt = [Ranks(rank, 4).parts(groups, token_budget=30) for rank in range(4)]
    assert len({len(parts) for parts in dealt}) == 1
    own = [group for parts in dealt for part, mine in parts if mine for group in part]
    assert sorted(map(id, own)) == sorted(map(id, groups))
    fillers = [group for parts in dealt for part, mine in parts if not mine for group in part]
    assert fillers
    assert all(group.weight == 0 for group in fillers)
