"""Our losses and their gradients equal TRL 1.16's on the same numbers, to 1e-5.

`fixtures/trl.json` was written by `make_trl_fixture.py` in an environment with TRL. Where TRL's name and our settings
differ, the tables below say how.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tutee.train.batch import Example, Group, Loss, pack_groups, totals
from tutee.train.dpo import DpoConfig
from tutee.train.grpo import GrpoConfig
from tutee.train.kto import KtoConfig, kto_loss
from tutee.train.policy_loss import policy_loss
from tutee.train.reward import RewardConfig

TRL = json.loads((Path(__file__).parent / "fixtures" / "trl.json").read_text(encoding="utf-8"))
CLOSE = {"rel": 1e-5, "abs": 1e-6}

DPO: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "sigmoid_smooth": {"label_smoothing": 0.2},
    "ipo": {"shape": "ipo", "length_normalised": True},
    "hinge": {"shape": "hinge"},
    "robust": {"shape": "robust", "label_smoothing": 0.1},
    "exo": {"shape": "exo", "label_smoothing": 0.1},
    "nca": {"shape": "nca"},
    "bco": {"shape": "bco"},
    "sppo": {"shape": "sppo"},
    "apo_zero": {"shape": "apo_zero"},
    "apo_down": {"shape": "apo_down"},
    "discopop": {"shape": "discopop"},
    "sigmoid_norm": {"length_normalised": True},
}
GRPO: dict[str, dict[str, Any]] = {
    "grpo": {"denominator": "sequence"},
    "grpo_kl": {"denominator": "sequence", "kl": 0.04, "corrected_kl": False},
    "grpo_kl_corrected": {"denominator": "sequence", "kl": 0.04},
    "dr_grpo": {"denominator": "constant", "constant": 8.0},
    "dapo": {"denominator": "token", "clip_high": 0.28},
    "gspo": {"denominator": "sequence", "ratio": "sequence", "clip_low": 0.05, "clip_high": 0.08},
}


def example(length: int, **streams: list[float]) -> Example:
    """A two-token prompt and an answer; streams are of the answer's tokens."""
    full = {name: (0.0, 0.0, *stream) for name, stream in streams.items()}
    return Example(tuple(range(2 + length)), (0.0, 0.0, *[1.0] * length), **full)  # type: ignore[arg-type]


def check(loss: Loss, groups: list[Group], logprobs: list[list[float]], case: dict[str, Any]) -> None:
    """Value and gradient of `loss` at these log-probs (in the order of the groups' examples)."""
    flat = torch.tensor([number for row in logprobs for number in row], requires_grad=True)
    value, _ = loss(flat, pack_groups(groups), totals(groups))
    assert value.item() == pytest.approx(case["loss"], **CLOSE)
    value.backward()
    assert flat.grad is not None
    assert flat.grad.tolist() == pytest.approx([number for row in case["gradient"] for number in row], **CLOSE)


def test_every_case_is_compared() -> None:
    assert TRL["trl"].startswith("1.16")
    assert set(TRL["dpo"]["cases"]) == {*DPO, "sigmoid_and_sft"}
    assert set(TRL["grpo"]["cases"]) == set(GRPO)


def dpo_order(rows: list[Any]) -> list[Any]:
    """TRL's rows are all chosen, then all rejected; ours go pair by pair."""
    half = len(rows) // 2
    return [row for pair in zip(rows[:half], rows[half:], strict=True) for row in pair]


@pytest.mark.row(28)
@pytest.mark.parametrize("name", DPO)
def test_dpo(name: str) -> None:
    data = TRL["dpo"]
    made = [example(len(row), reference_logprobs=row) for row in dpo_order(data["reference"])]
    groups = [Group.pair(made[i], made[i + 1]) for i in range(0, len(made), 2)]
    case = data["cases"][name]
    case = {"loss": case["loss"], "gradient": dpo_order(case["gradient"])}
    config = DpoConfig(beta=data["beta"], **DPO[name])
    check(config.loss(), groups, dpo_order(data["logprobs"]), case)


@pytest.mark.row(28)
def test_dpo_with_an_sft_term() -> None:
    """TRL averages the term over all chosen tokens, we (as the paper) over each answer's: equal for one pair."""
    data, config = TRL["dpo"], DpoConfig(beta=0.5, sft_weight=0.5)
    made = [example(len(row), reference_logprobs=row) for row in dpo_order(data["reference"])]
    logprobs = dpo_order(data["logprobs"])
    groups = [Group.pair(made[i], made[i + 1]) for i in range(0, len(made), 2)]
    flat = torch.tensor([number for row in logprobs for number in row])
    ours, _ = config.loss()(flat, pack_groups(groups), totals(groups))
    chosen = logprobs[::2]
    by_token = sum(sum(row) for row in chosen) / sum(map(len, chosen))
    by_answer = sum(sum(row) / len(row) for row in chosen) / len(chosen)
    expected = data["cases"]["sigmoid_and_sft"]["loss"] + 0.5 * (by_token - by_answer)
    assert ours.item() == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("name", ["kto", "kto_negative_kl", "apo_zero_unpaired"])
def test_kto(name: str) -> None:
    data = TRL["kto"]
    case = data["cases"][name]
    z = None if case["kl"] is None else max(0.0, case["kl"])
    groups = []
    for row, label in zip(data["reference"], data["labels"], strict=True):
        groups.append(Group((example(len(row), reference_logprobs=row),), label=label))
    config = KtoConfig(
        beta=data["beta"],
        desirable_weight=data["desirable_weight"],
        undesirable_weight=data["undesirable_weight"],
        kl=z is not None,
    )
    loss = partial(kto_loss, config=config, z=None if z is None else torch.tensor(z))
    check(loss, groups, data["logprobs"], case)


@pytest.mark.row(24)
@pytest.mark.parametrize("name", ["plain", "margin", "centred"])
def test_reward(name: str) -> None:
    data = TRL["reward"]
    case = data["cases"][name]
    margins = data["margins"] if case["margins"] else [0.0] * 4
    groups = [Group.pair(example(1), example(1), margin=margin) for margin in margins]
    scores = dpo_order(data["scores"])
    values = torch.tensor([number for score in scores for number in (7.0, 7.0, score)], requires_grad=True)
    config = RewardConfig(centre=case["centre"])
    loss, _ = config.loss()(values, pack_groups(groups), totals(groups))
    assert loss.item() == pytest.approx(case["loss"], **CLOSE)
    loss.backward()
    assert values.grad is not None
    assert values.grad[2::3].tolist() == pytest.approx(dpo_order(case["gradient"]), **CLOSE)


@pytest.mark.row(15)
@pytest.mark.parametrize("name", GRPO)
def test_grpo(name: str) -> None:
    data = TRL["grpo"]
    streams = zip(data["old"], data["reference"], data["advantages"], strict=True)
    examples = [
        example(len(old), behaviour_logprobs=old, reference_logprobs=reference, advantages=[advantage] * len(old))
        for old, reference, advantage in streams
    ]
    config = GrpoConfig(**{"clip_low": 0.2, "clip_high": 0.2, **GRPO[name]})
    check(
        lambda logprob_N, batch, sums: policy_loss(logprob_N, batch, sums, config),
        [Group(tuple(examples))],
        data["logprobs"],
        data["cases"][name],
    )
