"""Served answers as rollouts: which have a known probability, and that learning from them moves the right way."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny_home import open_home, plant
from tutee.data.from_feedback import collect
from tutee.errors import InvalidInput
from tutee.model.logprobs import score
from tutee.store.schema import Generation
from tutee.train.grpo import Grpo, GrpoConfig
from tutee.train.reinforce import ReinforceConfig, reinforce
from tutee.train.served import ServedConfig, ServedSource, served_rollouts
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_reinforcement import NO_LIMITS


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path):  # type: ignore[no-untyped-def]
    store, base, model = open_home(tmp_path / "home", tiny_folder)
    plant(store, base, model, votes=12, corrections=2)
    yield store, model, tmp_path
    store.close()


def test_votes_become_rewarded_rollouts_with_the_tokens_that_were_served(home) -> None:  # type: ignore[no-untyped-def]
    store, model, _ = home
    rows = collect(store).rows
    served = served_rollouts(store, rows, model)
    pairs = [row for row in rows if hasattr(row, "chosen")]
    by_ids = {rollout.answer.token_ids: rollout.reward for rollout in served.rollouts}
    compared = [row for row in pairs if row.chosen.sampled is not None]
    assert len(compared) >= 8
    for row in compared:
        assert by_ids[row.chosen.sampled.token_ids] == 1.0
    assert sum(rollout.reward for rollout in served.rollouts) <= 0  # a corrected answer has only its worse half
    assert served.left_out == {"not sampled as it stands": sum(row.chosen.sampled is None for row in pairs)}


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        ({"temperature": 0.7}, "drawn at another temperature"),
        ({"temperature": 1.0, "top_p": 0.9}, "drawn from a truncated or changed distribution"),
        ({"temperature": 0.0}, "drawn greedily"),
    ],
)
def test_answers_without_a_known_probability_are_left_out_and_counted(home, sampling, reason) -> None:  # type: ignore[no-untyped-def]
    store, model, _ = home
    _sample_all_with(store, sampling)
    served = served_rollouts(store, collect(store).rows, model)
    assert served.rollouts == ()
    assert served.left_out[reason] > 0
    with pytest.raises(InvalidInput) as caught:
        ServedSource(served.rollouts, ServedConfig())
    assert caught.value.code == "empty_dataset"


def test_another_temperature_is_scored_with_the_weights_that_served(home) -> None:  # type: ignore[no-untyped-def]
    store, model, _ = home
    _sample_all_with(store, {"temperature": 0.7})

    def rescore(version_id, tokens, temperature):  # type: ignore[no-untyped-def]
        return score(model.decoder, [tokens], temperature=temperature)[0]

    served = served_rollouts(store, collect(store).rows, model, rescore)
    first = served.rollouts[0]
    own = score(model.decoder, [first.tokens], temperature=0.7)[0][len(first.answer.prompt_ids) - 1 :]
    assert first.logprobs == pytest.approx(own.tolist(), abs=1e-6)
    assert served_rollouts(store, collect(store).rows, model, lambda *_: None).left_out["its version is gone"] > 0


def test_learning_from_served_answers_makes_the_preferred_ones_likelier(home) -> None:  # type: ignore[no-untyped-def]
    store, model, folder = home
    rollouts = served_rollouts(store, collect(store).rows, model).rollouts
    trainer = Trainer(model, TrainerConfig(rank=4))
    # Their stored log-probs are -1 a token, far from this random model's, so that the weights are truncated at once.
    learner = Grpo(trainer, GrpoConfig(baseline="none", scale="batch", most_weight=2.0, weights="token"))
    liked = [r.tokens for r in rollouts if r.reward > 0]
    disliked = [r.tokens for r in rollouts if r.reward < 0]

    def margin() -> float:
        means = [torch.cat(trainer.score(sequences)).mean() for sequences in (liked, disliked)]
        return float(means[0] - means[1])

    before = margin()
    run = ReinforceConfig(steps=6, learning_rate=1e-2)
    source = ServedSource([replace(r, logprobs=(-6.0,) * len(r.logprobs)) for r in rollouts], ServedConfig(answers=8))
    history = reinforce(learner, source, run, folder / "run", limits=NO_LIMITS).history
    assert len(history) == 6
    assert margin() > before + 0.1


def _sample_all_with(store, sampling) -> None:  # type: ignore[no-untyped-def]
    with store.database.write() as session:
        for generation in session.query(Generation):
            generation.sampling = sampling
