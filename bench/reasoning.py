"""One real reinforcement run: a reasoning-gym task that the default model sometimes gets right, learned by GRPO.

    python bench/reasoning.py --model ~/.tutee/models/smollm2-135m-instruct --folder runs/sums --plot docs/learning.svg

Killed and started again it goes on. A fifth of all questions, by a hash of their text, is kept aside: every ten steps
the policy answers 128 of those, as it would in training. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from tutee.engine.engine import Engine
from tutee.model.pretrained import load_pretrained
from tutee.train.environments import Environment, Question, ReasoningGym
from tutee.train.grpo import Grpo, effective_loss, variant
from tutee.train.health import Limits
from tutee.train.progress import Progress
from tutee.train.reinforce import ReinforceConfig, reinforce
from tutee.train.rewards import Rewards, TaskReward
from tutee.train.rollout import Collector, Reference, RolloutConfig
from tutee.train.trainer import Trainer, TrainerConfig

STRIDE = 1_000_000
"""Where the next try begins when a question is on the wrong side."""

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def last_number(text: str) -> str | None:
    """What is judged: the last number of an answer, or all of it where there is none."""
    found = re.findall(r"-?\d+", text)
    return found[-1] if found else None


class Side:
    """The part of an environment's questions that is kept aside, or the other part: no text is in both."""

    def __init__(self, environment: Environment, aside: bool) -> None:
        self._environment = environment
        self._aside = aside

    def question(self, index: int) -> Question:
        tried = (self._environment.question(index + STRIDE * k) for k in count())
        return next(question for question in tried if self._fits(question))

    def _fits(self, question: Question) -> bool:
        return (zlib.crc32(str(question.messages[-1].content).encode()) % 5 == 0) is self._aside

    def score(self, question: Question, text: str) -> float:
        return self._environment.score(question, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--task", default="chain_sum")
    parser.add_argument("--settings", type=json.loads, default=SUMS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--variant", default="dapo")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    model = load_pretrained(arguments.model)
    environment = ReasoningGym(arguments.task, settings=arguments.settings, extract=last_number)
    trainer = Trainer(model, TrainerConfig(rank=16, beta2=0.95))
    reference = Reference(trainer)
    engine = Engine(model, max_batch=128, cache_tokens=16384, autostart=False)
    rollout = RolloutConfig(prompts=8, group=8, max_tokens=16)
    rewards = Rewards([(1.0, TaskReward(environment))])
    trained, aside = Side(environment, aside=False), Side(environment, aside=True)
    config = variant(arguments.variant)
    print(effective_loss(config))
    run = ReinforceConfig(steps=arguments.steps, learning_rate=arguments.learning_rate, checkpoint_every=5)
    unseen = Collector(trainer, engine, aside, rewards, RolloutConfig(prompts=64, group=2, max_tokens=16))

    def examine(step: int) -> dict[str, float]:
        if step % 10:
            return {}
        return {"unseen": unseen.collect(step, 0).metrics["reward"]}

    base = unseen.collect(0, 0).metrics["reward"]
    result = reinforce(
        Grpo(trainer, config, reference),
        Collector(trainer, engine, trained, rewards, rollout),
        run,
        arguments.folder,
        limits=Limits(kl=None, longer=None, shorter=None, repetition=None, entropy=None),
        report=show,
        after_step=examine,
    )
    rewarded = [values["reward"] for values in result.history]
    seen = {0: base} | {i + 1: values["unseen"] for i, values in enumerate(result.history) if "unseen" in values}
    if arguments.plot is not None:
        plot(rewarded, seen, arguments.task, arguments.plot)
    summary = {"task": arguments.task, "first": rewarded[:5], "last": rewarded[-5:], "unseen": seen}
    print(json.dumps(summary | {"kl": result.history[-1]["kl"]}))


def show(progress: Progress) -> None:
    """One line a step."""
    names = ("reward", "unseen", "kl", "entropy", "length", "zero_variance_groups", "sampler_gap", "seconds")
    numbers = "  ".join(f"{name} {progress.metrics[name]:.3f}" for name in names if name in progress.metrics)
    print(f"{progress.step:4d}/{progress.total}  {numbers}  {progress.health}", flush=True)


def plot(rewards: Sequence[float], unseen: dict[int, float], task: str, path: Path) -> None:
    """Reward by step, its mean over ten steps, and the unseen questions."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    smooth = [float(np.mean(rewards[max(0, i - 9) : i + 1])) for i in range(len(rewards))]
    steps = range(1, len(rewards) + 1)
    axes.plot(steps, rewards, color="#b8c4d6", linewidth=1, label="a step's answers")
    axes.plot(steps, smooth, color="#2b5aa0", label="mean of ten steps")
    axes.plot(list(unseen), list(unseen.values()), "o-", color="#c2571a", label="questions kept aside")
    axes.set(xlabel="step (64 answers each)", ylabel="reward", title=f"SmolLM2-135M learns {task} by GRPO", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
