"""A task that a tiny random model learns in seconds, and one deterministic run of 6 steps on it.

Run as a script, it trains in FOLDER and kills itself with SIGKILL after step N:
    python -m tests.train.tiny_reinforcement METHOD FOLDER N
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tests.train.tiny_training import singles, tiny_model
from tutee.conversation import Message
from tutee.engine.engine import Engine
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group
from tutee.train.environments import Question
from tutee.train.grpo import Grpo, GrpoConfig
from tutee.train.health import Limits
from tutee.train.ppo import Ppo, PpoConfig, make_critic
from tutee.train.progress import Progress, Report, silent
from tutee.train.reinforce import Learner, ReinforceConfig, ReinforceResult, reinforce
from tutee.train.rewards import Answer, Rewards
from tutee.train.rollout import Collector, Reference, RolloutConfig
from tutee.train.trainer import Trainer, TrainerConfig

NO_LIMITS = Limits(kl=None, longer=None, shorter=None, repetition=None, entropy=None)
ROLLOUT = RolloutConfig(prompts=3, group=4, max_tokens=6, seed=5)
RUN = ReinforceConfig(steps=6, learning_rate=1e-2, epochs=2, minibatches=2, token_budget=200, checkpoint_every=1)
TRAINER = TrainerConfig(full=True, beta2=0.95)


class Letters:
    """Prompts are two letters; the answer is free."""

    def question(self, index: int) -> Question:
        return Question((Message("user", chr(97 + index % 26) + chr(97 + index // 26 % 26)),), {"index": index})

    def score(self, question: Question, text: str) -> float:
        return 0.0


class LowTokens:
    """The share of answer tokens with an id below 64: a quarter by chance, easily 1."""

    name = "low"

    def score(self, answers: list[Answer]) -> list[float]:  # type: ignore[override]
        return [sum(token < 64 for token in a.token_ids) / len(a.token_ids) for a in answers]


def engine_for(model: Pretrained) -> Engine:
    return Engine(model, max_batch=128, cache_tokens=8192, autostart=False)


def collector_for(trainer: Trainer, config: RolloutConfig = ROLLOUT, rewards: Rewards | None = None) -> Collector:
    model = trainer.answering()
    return Collector(trainer, engine_for(model), Letters(), rewards or Rewards([(1.0, LowTokens())]), config)


def grpo_learner(config: GrpoConfig | None = None, full: bool = True) -> Grpo:
    trainer = Trainer(tiny_model(), TRAINER if full else TrainerConfig(rank=4, seed=1))
    return Grpo(trainer, config or GrpoConfig(kl=0.01), Reference(trainer))


def ppo_learner(config: PpoConfig | None = None, full: bool = True, ptx: Sequence[Group] = ()) -> Ppo:
    trainer = Trainer(tiny_model(), TRAINER if full else TrainerConfig(rank=4, seed=1))
    critic = make_critic(trainer, TRAINER if full else TrainerConfig(rank=2, seed=2))
    return Ppo(trainer, critic, config or PpoConfig(kl_target=1.0), Reference(trainer), ptx)


def six_steps(learner: Learner, folder: Path, report: Report = silent, run: ReinforceConfig = RUN) -> ReinforceResult:
    return reinforce(learner, collector_for(learner.trainer), run, folder, limits=NO_LIMITS, report=report)


def learner_for(method: str) -> Learner:
    methods: dict[str, Callable[[], Learner]] = {
        "grpo": grpo_learner,
        "grpo-lora": lambda: grpo_learner(full=False),
        "ppo": ppo_learner,
        "ppo-lora": lambda: ppo_learner(PpoConfig(ptx=0.1), full=False, ptx=singles(12)),
    }
    return methods[method]()


if __name__ == "__main__":
    torch.set_num_threads(1)
    last = int(sys.argv[3])

    def die_after(progress: Progress) -> None:
        # The report of step N comes before its checkpoint, so step N itself is lost, as in a real crash.
        if progress.step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    six_steps(learner_for(sys.argv[1]), Path(sys.argv[2]), die_after)
