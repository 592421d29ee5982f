"""A chat whose readers' taste is known: the whole road from demonstrations to PPO and DPO, with the truth beside it.

People ask about a thing; answers are strings of words. What readers like is planted: the thing is named, the answer has
8 to 14 words, it is polite once or twice and not oftener, and never rude. The policy learns to talk from random
answers, a reward model learns from noisy comparisons of them, PPO and DPO learn from that; only the measurement sees
the taste. A reward model that saw few comparisons takes politeness for good without limit, which PPO finds (Gao et al.
2022).
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from characters import imitate, make_model, rows

from tutee.conversation import Message
from tutee.engine.engine import Engine
from tutee.model.pretrained import Pretrained
from tutee.model.value_head import ValueHead
from tutee.train.batch import Group
from tutee.train.dpo import DpoConfig
from tutee.train.encode import encode_tokens
from tutee.train.environments import Question
from tutee.train.health import Limits
from tutee.train.loop import LoopConfig, train
from tutee.train.ppo import Ppo, PpoConfig
from tutee.train.reinforce import ReinforceConfig, reinforce
from tutee.train.reward import RewardConfig
from tutee.train.reward_model import RewardModel
from tutee.train.rewards import Answer, ModelReward, Rewards
from tutee.train.rollout import Collector, Reference, Rollout, RolloutConfig
from tutee.train.trainer import Trainer, TrainerConfig

THINGS = ("tea", "rain", "cats", "music", "bread", "trains", "snow", "books", "rivers", "gold")
PLAIN = (
    "the",
    "is",
    "of",
    "some",
    "many",
    "very",
    "often",
    "we",
    "like",
    "here",
    "it",
    "grows",
    "old",
    "new",
    "warm",
    "and",
)
POLITE = ("please", "thanks", "kindly")
RUDE = ("stupid", "nonsense")
MOST_TOKENS = 24
NO_LIMITS = Limits(kl=None, longer=None, shorter=None, repetition=None, entropy=None)


class AboutThings:
    """Question number i names a thing; nobody scores here."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def question(self, index: int) -> Question:
        thing = THINGS[int(np.random.default_rng([self._seed, index]).integers(len(THINGS)))]
        return Question((Message("user", f" {thing}"),), {"thing": thing})

    def score(self, question: Question, text: str) -> float:
        return 0.0


def taste(question: Question, text: str) -> float:
    """What readers truly think of an answer."""
    words = text.split()
    outside = max(0, 8 - len(words), len(words) - 14)
    polite = sum(word in POLITE for word in words)
    named = float(question.item["thing"] in words)
    rude = sum(word in RUDE for word in words)
    return named + (1.0 - 0.25 * outside) + min(polite, 2) * 0.5 - 0.5 * max(0, polite - 2) - rude


class Taste:
    """The truth as a reward of weight 0: measured, never optimised."""

    name = "gold"

    def score(self, answers: Sequence[Answer]) -> list[float]:
        return [taste(answer.question, answer.text) for answer in answers]


def random_answer(thing: str, dice: np.random.Generator) -> str:
    """What people say when nobody listens: any length, sometimes to the point, polite or rude."""
    words = [str(dice.choice(PLAIN)) for _ in range(int(dice.integers(3, 20)))]
    for options, chance in ((POLITE, 0.5), (POLITE, 0.2), (RUDE, 0.4), ([thing], 0.5)):
        if dice.random() < chance:
            words[int(dice.integers(len(words)))] = str(dice.choice(options))
    return "".join(f" {word}" for word in words)


def talker(seed: int) -> Pretrained:
    """The supervised policy: it talks like the random answers."""
    model = make_model([f" {word}" for word in (*THINGS, *PLAIN, *POLITE, *RUDE)], hidden=64, layers=2, seed=seed)
    dice = np.random.default_rng([seed, 1])
    asked = [str(dice.choice(THINGS)) for _ in range(1500)]
    imitate(model, rows(model, [(f" {thing}", random_answer(thing, dice)) for thing in asked]), 220, 64, 3e-3, seed)
    return model


def sample(model: Pretrained, trainer: Trainer, prompts: int, group: int, seed: int) -> list[Rollout]:
    """Answers of a policy to questions nobody trains on, `taste` as their reward."""
    engine = Engine(model, max_batch=256, cache_tokens=32768, autostart=False)
    config = RolloutConfig(prompts=prompts, group=group, max_tokens=MOST_TOKENS, seed=seed)
    return list(Collector(trainer, engine, AboutThings(seed), Rewards([(1.0, Taste())]), config).collect(0, 0).rollouts)


def compared(model: Pretrained, rollouts: Sequence[Rollout], seed: int) -> tuple[list[Group], float]:
    """(pairs as noisy readers judge them, the share of them that a judge who knows the taste gets right).

    P(a preferred) = σ(taste(a) - taste(b)), as Bradley and Terry have it.
    """
    dice = np.random.default_rng([seed, 2])
    pairs, agreed = [], 0
    for a, b in zip(rollouts[::2], rollouts[1::2], strict=True):
        if a.answer.token_ids == b.answer.token_ids:
            continue
        if dice.random() > 1 / (1 + math.exp(b.reward - a.reward)):
            a, b = b, a
        agreed += a.reward > b.reward
        both = [encode_tokens(model, r.answer.prompt_ids, r.answer.token_ids, r.logprobs) for r in (a, b)]
        assert both[0] is not None
        assert both[1] is not None
        pairs.append(Group.pair(both[0], both[1]))
    return pairs, agreed / len(pairs)


def learn_reward(model: Pretrained, pairs: list[Group], seed: int) -> RewardModel:
    """A reward model: a copy of the talker with a head, all weights trained for two epochs."""
    own = replace(model, decoder=copy.deepcopy(model.decoder))
    trainer = Trainer(own, TrainerConfig(full=True), head=ValueHead(own.config.hidden_size, seed=seed))
    loop = LoopConfig(epochs=3, batch_size=16, learning_rate=1e-3, seed=seed, checkpoint_every=10_000)
    with tempfile.TemporaryDirectory() as folder:
        train(trainer, pairs, RewardConfig().loss(), loop, Path(folder))
    own.decoder.requires_grad_(False)
    assert trainer.head is not None
    return RewardModel(own, None, trainer.head)


def accuracy(reward: RewardModel, pairs: Sequence[Group]) -> float:
    """How often the reward model prefers what was preferred."""
    chosen = reward.score([pair.examples[0].tokens for pair in pairs])
    rejected = reward.score([pair.examples[1].tokens for pair in pairs])
    return float(np.mean([c > r for c, r in zip(chosen, rejected, strict=True)]))


def win_rate(after: Sequence[Rollout], before: Sequence[Rollout]) -> float:
    """How often readers would prefer the new policy's answer to the old one's, to the same questions; ties are half."""
    points = [0.5 * (a.reward == b.reward) + (a.reward > b.reward) for a, b in zip(after, before, strict=True)]
    return float(np.mean(points))


def run_ppo(
    model: Pretrained, reward: RewardModel, scale: tuple[float, float], price: float, steps: int, seed: int
) -> tuple[Trainer, list[dict[str, float]]]:
    """PPO of a LoRA against the reward model, the critic begun from it; the history has `reward/gold` and `kl`."""
    trainer = Trainer(model, TrainerConfig(rank=16, beta2=0.95, seed=seed))
    reference = Reference(trainer)
    head = copy.deepcopy(reward.head)
    critic = Trainer(
        replace(reward.model, decoder=copy.deepcopy(reward.model.decoder)), TrainerConfig(full=True), head=head
    )
    learner = Ppo(trainer, critic, PpoConfig(kl_price=price, critic_learning_rate=1e-3), reference)
    engine = Engine(model, max_batch=256, cache_tokens=32768, autostart=False)
    rewards = Rewards([(1.0, ModelReward(reward.score, *scale)), (0.0, Taste())])
    config = RolloutConfig(prompts=64, group=2, max_tokens=MOST_TOKENS, seed=seed)
    run = ReinforceConfig(steps=steps, learning_rate=2e-3, epochs=2, minibatches=2, checkpoint_every=10_000, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(trainer, engine, AboutThings(seed + 1), rewards, config)
        history = reinforce(learner, collector, run, Path(folder), limits=NO_LIMITS).history
    return trainer, list(history)


def run_dpo(model: Pretrained, pairs: list[Group], seed: int) -> Trainer:
    """DPO of a LoRA on the same comparisons."""
    trainer = Trainer(model, TrainerConfig(rank=16, seed=seed))
    loop = LoopConfig(epochs=2, batch_size=16, learning_rate=2e-3, seed=seed, checkpoint_every=10_000)
    with tempfile.TemporaryDirectory() as folder:
        train(trainer, pairs, DpoConfig(beta=0.1).loss(), loop, Path(folder))
    return trainer


def measure(seed: int, comparisons: int = 1000, steps: int = 30) -> dict[str, Any]:
    """SFT, reward model, PPO with and without a price of KL, DPO: gold scores, win rates, over-optimisation curves."""
    model = talker(seed)
    start = Trainer(model, TrainerConfig(rank=1))
    before = sample(model, start, 256, 1, seed + 100)
    drawn = sample(model, start, comparisons, 2, seed + 200)
    pairs, ceiling = compared(model, drawn, seed)
    kept, held_out = pairs[: -len(pairs) // 4], pairs[-len(pairs) // 4 :]
    reward = learn_reward(model, kept, seed)
    scores = reward.score([r.tokens for r in before])
    scale = float(np.mean(scores)), max(1e-6, float(np.std(scores)))
    out: dict[str, Any] = {
        "gold_sft": float(np.mean([r.reward for r in before])),
        "reward_accuracy": accuracy(reward, held_out),
        "reward_ceiling": ceiling,
    }
    for name, price in (("ppo", 0.2), ("ppo_free", 0.0)):
        trainer, history = run_ppo(model, reward, scale, price, steps, seed)
        after = sample(model, trainer, 256, 1, seed + 100)
        out[f"gold_{name}"] = float(np.mean([r.reward for r in after]))
        out[f"win_{name}"] = win_rate(after, before)
        out[f"kl_{name}"] = history[-1]["kl"]
        out[f"curve_{name}"] = [(h["kl"], h["reward/model"], h["reward/gold"]) for h in history]
    dpo = run_dpo(model, kept, seed)
    after = sample(model, dpo, 256, 1, seed + 100)
    return out | {"gold_dpo": float(np.mean([r.reward for r in after])), "win_dpo": win_rate(after, before)}
