"""The reward loss against its equation; a planted preference is learned, kept in a folder and read back."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tutee.conversation import Message
from tutee.data.training_files import Ranking, read_rankings
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.model.value_head import ValueHead, hidden_states
from tutee.train.batch import Example, Group, pack_groups, totals
from tutee.train.features import NAMES
from tutee.train.loop import LoopConfig, train
from tutee.train.options import read_options
from tutee.train.preference_head import Labels, fit_head
from tutee.train.reward import RewardConfig, reward_groups, reward_loss
from tutee.train.reward_model import Evidence, RewardModel, TasteReward, gather_evidence, last_states, probe
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_training import tiny_model

PLAIN = RewardConfig(centre=0.0)


def example(length: int, start: int = 10) -> Example:
    return Example(tuple(range(start, start + length)), (0.0, *[1.0] * (length - 1)))


def nll(difference: float) -> float:
    return math.log1p(math.exp(-difference))


@pytest.mark.row(24)
def test_a_pair_with_margin_and_centre_closed_form() -> None:
    group = Group.pair(example(3), example(2, 20), weight=2.0, margin=0.5)
    values = torch.tensor([9.0, 9.0, 1.2, 9.0, -0.3])  # only the last token of each counts
    values.requires_grad_()
    loss, metrics = reward_loss(values, pack_groups([group]), totals([group]), RewardConfig(centre=0.1))
    assert loss.item() == pytest.approx(nll(1.5 - 0.5) + 0.1 * (1.2 - 0.3) ** 2)
    loss.backward()
    assert values.grad is not None
    assert values.grad[[0, 1, 3]].tolist() == [0, 0, 0]
    assert metrics.values()["reward_accuracy"] == 1
    assert metrics.values()["reward_margin"] == pytest.approx(1.5)
    no_margin = read_options(RewardConfig, {"margins": False, "centre": 0})
    assert reward_loss(values, pack_groups([group]), totals([group]), no_margin)[0].item() == pytest.approx(nll(1.5))


@pytest.mark.row(24)
def test_a_ranking_is_all_its_pairs_and_a_tie_pulls_scores_together() -> None:
    ranked = Group(tuple(example(2, 10 * i) for i in range(4)), ranks=(3, 1, 1, 2), margin=0.25)
    scores = [0.1, 0.9, 0.4, 0.3]
    values = torch.tensor([number for score in scores for number in (9.0, score)])
    loss, metrics = reward_loss(values, pack_groups([ranked]), totals([ranked]), PLAIN)
    expected = 0.0
    for a, b in itertools.combinations(range(4), 2):
        better, worse = sorted((a, b), key=lambda i: ranked.ranks[i])  # type: ignore[index]
        gap = scores[better] - scores[worse]
        tie = ranked.ranks[a] == ranked.ranks[b]  # type: ignore[index]
        expected += (nll(gap) + nll(-gap)) / 2 if tie else nll(gap - 0.25)
    assert loss.item() == pytest.approx(expected / 6)
    assert metrics.values()["reward_accuracy"] == 1  # of the five pairs that people decided


@pytest.mark.row(24)
def test_a_score_does_not_depend_on_company_or_order(model: Pretrained) -> None:
    head = ValueHead(model.config.hidden_size)
    reward = RewardModel(model, None, head)
    dice = np.random.default_rng(1)
    sequences = [tuple(int(t) for t in dice.integers(0, 256, length)) for length in (30, 5, 17, 2)]
    alone = [reward.score([sequence])[0] for sequence in sequences]
    assert reward.score(sequences) == alone
    assert reward.score(sequences[::-1]) == alone[::-1]


@pytest.mark.row(5)
def test_the_end_token_is_scored_though_it_is_also_the_padding(model: Pretrained) -> None:
    assert model.tokenizer.pad_id == model.tokenizer.eos_id == 256
    row = Ranking(1, (Message("user", "Hi"),), (Message("assistant", "yes"), Message("assistant", "no")), (0, 1))
    [group] = reward_groups(model, [row]).groups
    assert all(e.tokens[-1] == 256 and e.mask[-1] == 1 for e in group.examples)
    batch = pack_groups([group])
    assert batch.tokens_T[batch.last_E].tolist() == [256, 256]


@pytest.mark.row(24)
def test_the_head_starts_small_without_bias() -> None:
    head = ValueHead(4000, seed=3)
    assert head.bias.item() == 0
    assert head.weight.std().item() == pytest.approx(1 / math.sqrt(4001), rel=0.05)


def rows(count: int) -> list[Ranking]:
    """People like answers that end with an exclamation mark, and three of them longer than one."""
    out = []
    for i in range(count):
        texts = (f"fine {i}!!!", f"good {i % 7}!", f"well {i % 5}.")
        answers = tuple(Message("assistant", text) for text in texts)
        out.append(Ranking(i + 1, (Message("user", f"Question {i % 11}"),), answers, (0, 1, 2)))
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretrained, Trainer, list[Group]]:
    torch.set_num_threads(1)
    model = tiny_model()
    trainer = Trainer(model, TrainerConfig(rank=4), head=ValueHead(model.config.hidden_size))
    groups = list(reward_groups(model, rows(24)).groups)
    loop = LoopConfig(epochs=6, batch_size=6, learning_rate=2e-2, token_budget=200)
    train(trainer, groups, RewardConfig().loss(), loop, tmp_path_factory.mktemp("reward"))
    return model, trainer, groups


@pytest.mark.row(24)
def test_a_planted_preference_is_learned(trained: tuple[Pretrained, Trainer, list[Group]]) -> None:
    model, trainer, _ = trained
    assert trainer.head is not None
    reward = RewardModel(model, trainer.lora, trainer.head)
    fresh = rows(40)[24:]
    judged = [reward.judge([[*row.prompt, answer] for answer in row.answers]) for row in fresh]
    right = [a.score > b.score > c.score for a, b, c in judged]
    assert np.mean(right) > 0.95


def test_it_is_saved_with_what_it_knows_and_read_back(
    trained: tuple[Pretrained, Trainer, list[Group]], tmp_path: Path
) -> None:
    model, trainer, groups = trained
    assert trainer.head is not None
    evidence = gather_evidence(model, trainer.lora, trainer.head, groups)
    reward = RewardModel(model, trainer.lora, trainer.head, evidence)
    trainer.save(tmp_path / "version")
    reward.save(tmp_path / "version", {"accuracy": 0.9})
    again = RewardModel.load(tmp_path / "version", model)
    talk = [(Message("user", "Q"), Message("assistant", "fine!"))]
    [read], [was] = again.judge(talk), reward.judge(talk)
    assert read.score == was.score
    assert read.sd == pytest.approx(was.sd, rel=1e-6)  # sums over a matrix round by where in memory it begins
    assert json.loads((tmp_path / "version" / "reward_model.json").read_text())["accuracy"] == 0.9
    with pytest.raises(InvalidInput) as caught:
        RewardModel.load(tmp_path / "version")
    assert caught.value.code == "missing_base"
    other = tiny_model()
    other.weights_sha256 = "1" * 64
    with pytest.raises(InvalidInput) as caught:
        RewardModel.load(tmp_path / "version", other)
    assert caught.value.code == "wrong_base"


def test_a_policy_is_no_reward_model(model: Pretrained, tmp_path: Path) -> None:
    Trainer(model, TrainerConfig(rank=2)).save(tmp_path / "policy")
    with pytest.raises(InvalidInput) as caught:
        RewardModel.load(tmp_path / "policy", model)
    assert caught.value.code == "not_a_reward_model"


def test_certainty_is_the_posterior_of_a_logistic_regression(
    trained: tuple[Pretrained, Trainer, list[Group]],
) -> None:
    """Against the Hessian of the negative log posterior, taken by autograd."""
    model, trainer, groups = trained
    assert trainer.head is not None
    evidence = gather_evidence(model, trainer.lora, trainer.head, groups)
    batch = pack_groups(groups)
    hidden = {}
    sequences = [e.tokens for group in groups for e in group.examples]
    for i, hidden_LD in hidden_states(model.decoder, sequences, trainer.lora):
        hidden[i] = hidden_LD[-1].double()
    x_ED = torch.stack([hidden[i] for i in range(len(sequences))])
    width = x_ED.shape[1]

    def energy(weight_D: torch.Tensor) -> torch.Tensor:
        score_P2 = (x_ED @ weight_D)[batch.pairs_P2]
        choice = torch.nn.functional.softplus(score_P2[:, 1] - score_P2[:, 0])
        return (batch.pair_weight_P * choice).sum() + (width + 1) * (weight_D**2).sum() / 2

    hessian = torch.autograd.functional.hessian(energy, trainer.head.weight.detach().double())  # type: ignore[no-untyped-call]
    x_D = torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.sqrt(x_D @ torch.linalg.solve(hessian, x_D)).item()
    assert evidence.sd(evidence.mean_D + x_D.float()) == pytest.approx(expected, rel=1e-4)
    assert evidence.sd(evidence.mean_D) == 0


def test_more_evidence_makes_surer(trained: tuple[Pretrained, Trainer, list[Group]]) -> None:
    model, trainer, groups = trained
    assert trainer.head is not None
    few = gather_evidence(model, trainer.lora, trainer.head, groups[:2])
    many = gather_evidence(model, trainer.lora, trainer.head, groups * 50)
    one = Evidence(few.mean_D, many.covariance_DD)
    direction = few.mean_D.roll(1)
    assert one.sd(direction) < few.sd(direction)


def test_the_small_data_head_speaks_the_same_language(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    features = len(NAMES)
    chosen, rejected = dice.normal(size=(2, 60, features))
    chosen[:, 1] += 2.5
    head = fit_head(Labels.of_votes(chosen, rejected))
    (tmp_path / "head.json").write_text(json.dumps(head.to_dict()))
    reward = TasteReward.load(tmp_path / "head.json")
    ask = Message("user", "Why?")
    short, long = reward.judge(
        [(ask, Message("assistant", "So.")), (ask, Message("assistant", " ".join(["word"] * 70) + "."))]
    )
    assert long.score > short.score  # feature 1 is about words
    assert short.sd > 0
    assert long.cautious(2) == pytest.approx(long.score - 2 * long.sd)
    coin = fit_head(Labels.of_votes(rejected, dice.normal(size=(60, features))))
    (tmp_path / "coin.json").write_text(json.dumps(coin.to_dict()))
    with pytest.raises(InvalidInput) as caught:
        TasteReward.load(tmp_path / "coin.json")
    assert caught.value.code == "untrusted_reward"


@pytest.mark.parametrize("conversation", [[], [Message("assistant", "x")], [Message("user", "x")]])
def test_what_has_no_answer_cannot_be_judged(model: Pretrained, conversation: list[Message]) -> None:
    with pytest.raises(InvalidInput) as caught:
        RewardModel(model, None, ValueHead(32)).judge([conversation])
    assert caught.value.param == "conversations[0]"


def test_a_file_of_rankings() -> None:
    lines = [
        {"prompt": "Hi", "completions": ["a", "b", "c"], "ranks": [1, 2, 2], "margin": 0.5},
        {"prompt": [{"role": "user", "content": "Hi"}], "completions": ["a", "b"]},
        {
            "input": {"messages": [{"role": "user", "content": "Hi"}]},
            "preferred_output": [{"role": "assistant", "content": "a"}],
            "non_preferred_output": [{"role": "assistant", "content": "b"}],
        },
    ]
    read = list(read_rankings(io.BytesIO("\n".join(map(json.dumps, lines)).encode())))
    assert [(row.line, row.ranks, row.margin, len(row.answers)) for row in read] == [
        (1, (1, 2, 2), 0.5, 3),
        (2, (0, 1), 0.0, 2),
        (3, (0, 1), 0.0, 2),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"prompt": "Hi", "completions": ["a"]}, "two or more"),
        ({"prompt": "Hi", "completions": ["a", "b"], "ranks": [1]}, "one whole number for each"),
        ({"prompt": "Hi", "completions": ["a", "b"], "ranks": [True, 2]}, "one whole number for each"),
        ({"prompt": "Hi", "completions": ["a", "b"], "margin": -1}, "margin"),
        ({"prompt": "Hi", "completions": ["a", ""]}, "completions[1] is empty"),
        ({"prompt": "Hi", "completions": ["a", "b"], "rank": [1, 2]}, "rank is not a field"),
        ({"completions": ["a", "b"]}, "prompt is missing"),
    ],
)
def test_a_bad_ranking_is_named(line: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match="line 1") as caught:
        list(read_rankings(io.BytesIO(json.dumps(line).encode())))
    assert says in caught.value.message


def test_a_ranking_of_equal_answers_is_refused_by_line(model: Pretrained) -> None:
    same = (Message("assistant", "a"), Message("assistant", "a"), Message("assistant", "b"))
    with pytest.raises(InvalidInput, match="line 7") as caught:
        reward_groups(model, [Ranking(7, (Message("user", "Hi"),), same, (0, 1, 2))])
    assert caught.value.code == "identical_pair"
    tied = reward_groups(model, [Ranking(7, (Message("user", "Hi"),), same, (0, 0, 1))])
    assert len(tied.groups) == 1


@pytest.mark.row(24)
def test_a_probed_head_predicts_before_any_training(model: Pretrained) -> None:
    head, untouched = ValueHead(model.config.hidden_size), ValueHead(model.config.hidden_size)
    groups = list(reward_groups(model, rows(20)).groups)
    probe(model, head, groups)
    fresh = reward_groups(model, rows(40)[20:]).groups
    states = last_states(model, None, fresh)
    score_P2 = head(states)[pack_groups(fresh).pairs_P2]
    assert (score_P2[:, 0] > score_P2[:, 1]).float().mean() > 0.9
    probe(model, untouched, groups[:1])  # three pairs say nothing
    assert torch.equal(untouched.weight, ValueHead(model.config.hidden_size).weight)
