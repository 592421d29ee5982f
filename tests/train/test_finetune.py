"""Methods on fixed rows: masks, versions an epoch, validation, resume."""

from pathlib import Path

import pytest
import torch

from tutee.conversation import Message
from tutee.data.openai_format import Preference, Supervised
from tutee.errors import InvalidInput
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.train.dpo import dpo_groups
from tutee.train.methods import METHODS, run
from tutee.train.progress import Progress
from tutee.train.sft import sft_groups

SFT, DPO = METHODS["sft"], METHODS["dpo"]
LEFT_OUT = "1 rows exceed the context of 256 tokens and were left out: line 7."
THREE = {"epochs": 3, "batch_size": 2, "learning_rate": 1e-2}


def supervised(count: int, start: int = 0) -> list[Supervised]:
    return [
        Supervised(i + 1, (Message("user", f"Say {i}."), Message("assistant", f"It is {i}.")))
        for i in range(start, start + count)
    ]


def preferences(count: int) -> list[Preference]:
    return [
        Preference(i + 1, (Message("user", f"Say {i}."),), Message("assistant", f"{i}"), Message("assistant", "No."))
        for i in range(count)
    ]


def test_only_assistant_tokens_of_weight_one_are_learned(model: Pretrained) -> None:
    messages = (
        Message("system", "Be kind."),
        Message("user", "Hi"),
        Message("assistant", "Old", weight=0),
        Message("user", "Bye"),
        Message("assistant", "New"),
    )
    [group] = sft_groups(model, [Supervised(1, messages)]).groups
    [example] = group.examples
    learned = [token for token, weight in zip(example.tokens, example.mask, strict=True) if weight]
    assert model.tokenizer.decode(learned[:-1]) == "New"
    assert learned[-1] == 256  # its end of turn is learned too


def test_a_preference_has_its_prompt_masked_in_both(model: Pretrained) -> None:
    [group] = dpo_groups(model, preferences(1)).groups
    learned = [[t for t, w in zip(e.tokens, e.mask, strict=True) if w][:-1] for e in group.examples]
    assert [model.tokenizer.decode(tokens) for tokens in learned] == ["0", "No."]


def test_supervised_job_writes_a_version_an_epoch_and_learns(model: Pretrained, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = run(SFT, model, supervised(6), THREE, tmp_path, validation=supervised(2, 6), report=seen.append)
    assert [c.step for c in result.checkpoints] == [3, 6, 9]
    losses = [c.metrics["valid_loss"] for c in result.checkpoints]
    assert losses[-1] < losses[0]
    for checkpoint in result.checkpoints:
        Lora.load(checkpoint.folder, model.config, model.weights_sha256)
    assert result.trained_tokens == 3 * sum(len(g.examples[0].tokens) for g in sft_groups(model, supervised(6)).groups)
    assert [progress.step for progress in seen] == list(range(1, 10))
    assert seen[-1].eta_s == 0


def test_dpo_job_begins_at_ln_2_and_separates(model: Pretrained, tmp_path: Path) -> None:
    result = run(DPO, model, preferences(6), {**THREE, "beta": 0.5}, tmp_path, validation=preferences(2))
    first, last = result.checkpoints[0].metrics, result.checkpoints[-1].metrics
    assert last["valid_reward_margin"] > first["valid_reward_margin"] > 0
    assert last["valid_reward_accuracy"] == 1


def test_a_broken_off_dpo_job_keeps_its_reference(model: Pretrained, tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch_size": 2, "learning_rate": 1e-2, "beta": 0.5}

    def break_off(progress: Progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    whole = run(DPO, model, preferences(6), settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(DPO, model, preferences(6), settings, tmp_path / "broken", report=break_off)
    again = run(DPO, model, preferences(6), settings, tmp_path / "broken")
    assert [c.metrics for c in again.checkpoints] == [c.metrics for c in whole.checkpoints]


def test_full_fine_tuning_saves_a_whole_folder(model: Pretrained, tmp_path: Path) -> None:
    one = {"epochs": 1, "full": True}
    before = torch.cat([p.flatten().clone() for p in model.decoder.parameters()])
    result = run(SFT, model, supervised(4), one, tmp_path)
    assert (torch.cat([p.flatten() for p in model.decoder.parameters()]) - before).abs().max() > 0
    assert (result.checkpoints[0].folder / "config.json").exists()


def test_rows_that_do_not_fit_are_counted_and_data_without_lessons_is_refused(
    model: Pretrained, tmp_path: Path
) -> None:
    long = Supervised(7, (Message("user", "Why?"), Message("assistant", "so " * 200)))
    result = run(SFT, model, [*supervised(2), long], {"epochs": 1}, tmp_path)
    assert result.too_long == (7,)
    assert "line 7" in result.notes[0]
    with pytest.raises(InvalidInput, match="None of the 1 examples fits"):
        sft_groups(model, [long])
    same = Preference(3, (Message("user", "a"),), Message("assistant", "b"), Message("assistant", "b"))
    with pytest.raises(InvalidInput, match="line 3: chosen and rejected are the same") as caught:
        dpo_groups(model, [same])
    assert caught.value.code == "identical_pair"
    masked = Supervised(4, (Message("user", "a"), Message("assistant", "b", weight=0)))
    with pytest.raises(InvalidInput, match="line 4"):
        sft_groups(model, [masked])
    with pytest.raises(InvalidInput, match="line 3: chosen and rejected are the same") as caught:
        run(DPO, model, preferences(2), {}, tmp_path / "dpo", validation=[same])
    assert caught.value.param == "validation_file"
    result = run(SFT, model, supervised(2), {"epochs": 1}, tmp_path / "held out", validation=[*supervised(1), long])
    assert result.notes == (f"Of the validation file: {LEFT_OUT}",)
    with pytest.raises(InvalidInput, match="no rows"):
        run(SFT, model, [], THREE, tmp_path / "none")
