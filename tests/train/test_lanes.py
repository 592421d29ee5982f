"""Microbatches side by side: the same step as one after the other."""

import threading

import pytest
import torch

from tests.train.test_trainer import moved
from tests.train.tiny_training import singles, tiny_model
from tutee.model import compiled
from tutee.train import trainer as trainer_module
from tutee.train.batch import pack_groups, totals
from tutee.train.lanes import balanced, side_by_side
from tutee.train.sft import token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig


def test_groups_are_dealt_by_tokens() -> None:
    groups = singles(9)
    shares = balanced(groups, 3)
    assert sorted(id(group) for share in shares for group in share) == sorted(map(id, groups))
    loads = [sum(group.num_tokens for group in share) for share in shares]
    assert max(loads) - min(loads) <= max(group.num_tokens for group in groups)
    assert balanced(groups[:2], 3) == [[group] for group in sorted(groups[:2], key=lambda g: -g.num_tokens)]
    assert balanced(groups, 1) == [groups]


def test_work_is_done_in_threads_of_one_core_and_comes_back_in_order() -> None:
    if compiled.load_amx("matmul.c") is None:
        pytest.skip("no matrix units or no C compiler")
    meeting = threading.Barrier(2, timeout=20)

    def work(item: int) -> tuple[int, int]:
        meeting.wait()  # only two at once can pass
        return item, torch.get_num_threads()

    before = torch.get_num_threads()
    assert side_by_side(work, [3, 1], 2) == [(3, 1), (1, 1)]
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda item: 1 // item, [1, 0], 2)


def test_gradients_are_those_of_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.load_amx("matmul.c") is None:
        pytest.skip("no matrix units or no C compiler")
    groups = singles(8)
    batches = [pack_groups(groups[:3]), pack_groups(groups[3:5]), pack_groups(groups[5:])]
    found = []
    for count in (1, 2):
        monkeypatch.setattr(trainer_module, "lanes", lambda count=count: count)
        trainer = moved(Trainer(tiny_model(torch.bfloat16), TrainerConfig(rank=4)))
        metrics = trainer.forward_backward_all(batches, token_mean_loss, totals(groups))
        assert trainer.lora is not None
        found.append(([said.values() for said in metrics], [p.grad for p in trainer.lora.parameters()]))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


def test_exact_runs_and_runs_of_all_weights_have_one_lane() -> None:
    assert Trainer(tiny_model()).lanes == 1
    assert Trainer(tiny_model(torch.bfloat16), TrainerConfig(full=True)).lanes == 1
