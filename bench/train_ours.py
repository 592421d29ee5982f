"""One row of `bench/train.py` by our trainer, in a process of its own so that its peak memory is its own.

Reads `{"row", "model", "threads", "steps", "work"}` from standard input; the last line is `{"seconds", "peak_gib", …}`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.train_work import Work, peak_gib
from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.value_head import ValueHead
from tutee.train.batch import Example, Group, Loss
from tutee.train.dpo import dpo_loss, with_references
from tutee.train.environments import Question
from tutee.train.grpo import Grpo, variant
from tutee.train.loop import take_step
from tutee.train.ppo import Ppo, PpoConfig, make_critic
from tutee.train.reinforce import ReinforceConfig
from tutee.train.reward import RewardConfig
from tutee.train.rewards import Answer
from tutee.train.rollout import Reference, Rollout
from tutee.train.sft import token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

BUDGET = 2048
"""Tokens of a microbatch."""
FULL_BUDGET = 1024
"""The same where all weights learn: gradients and moments take the room, and a microbatch costs one pass over them."""
Step = Callable[[], dict[str, float]]


def learned(prompt: list[int], answer: list[int]) -> Example:
    return Example((*prompt, *answer), (0.0,) * len(prompt) + (1.0,) * len(answer))


def supervised(model: Pretrained, work: Work, full: bool) -> Step:
    trainer = Trainer(model, TrainerConfig(full=full))
    groups = [Group((learned(ids[:1], ids[1:]),)) for ids in work["rows"]]
    return partial(optimize, trainer, groups, token_mean_loss, FULL_BUDGET if full else BUDGET)


def preferences(model: Pretrained, work: Work) -> Step:
    trainer = Trainer(model)
    groups = [
        Group.pair(learned(prompt, chosen), learned(prompt, rejected)) for prompt, chosen, rejected in work["pairs"]
    ]
    groups = with_references(groups, trainer.score)
    return partial(optimize, trainer, groups, dpo_loss, BUDGET)


def rewards(model: Pretrained, work: Work) -> Step:
    trainer = Trainer(model, TrainerConfig(full=True), head=ValueHead(model.config.hidden_size))
    groups = [
        Group.pair(learned(prompt, chosen), learned(prompt, rejected)) for prompt, chosen, rejected in work["pairs"]
    ]
    return partial(optimize, trainer, groups, RewardConfig().loss(), FULL_BUDGET)


def optimize(trainer: Trainer, groups: list[Group], loss: Loss, budget: int) -> dict[str, float]:
    take_step(trainer, groups, loss, 1e-6, budget)
    return {}


def reinforcement(model: Pretrained, work: Work, critic: bool) -> Step:
    """Sample, then learn. Rewards are drawn, not computed: what costs time is the same."""
    trainer = Trainer(model, TrainerConfig(full=True))
    answers = len(work["prompts"]) * work["group"]
    engine = Engine(model, max_batch=answers, cache_tokens=answers * 160, autostart=False)
    learner: Grpo | Ppo = Grpo(trainer, variant("dapo"))
    if critic:
        learner = Ppo(trainer, make_critic(trainer, TrainerConfig(full=True)), PpoConfig(), Reference(trainer))
    params = SamplingParams(temperature=1.0, max_tokens=work["answer"], ignore_eos=True, seed=1, logprobs=0)
    config = ReinforceConfig(token_budget=FULL_BUDGET)

    def step() -> dict[str, float]:
        begun = time.perf_counter()
        drawn = trainer.sample(engine, work["prompts"], params, n=work["group"])
        sampled = time.perf_counter()
        rollouts = [
            Rollout(i, _answer(prompt, completion.token_ids), tuple(completion.logprobs), 0, float(k % 3), {})
            for i, (prompt, group) in enumerate(zip(work["prompts"], drawn, strict=True))
            for k, completion in enumerate(group)
        ]
        learner.learn(rollouts, 0, 1e-6, config)
        return {"generate": sampled - begun, "train": time.perf_counter() - sampled}

    return step


def _answer(prompt: list[int], ids: tuple[int, ...]) -> Answer:
    return Answer(Question((), {}), tuple(prompt), tuple(ids), "", True)


STEPS: dict[str, Callable[[Pretrained, Work], Step]] = {
    "sft_full": partial(supervised, full=True),
    "memory": partial(supervised, full=True),
    "sft_lora": partial(supervised, full=False),
    "dpo_lora": preferences,
    "reward": rewards,
    "grpo": partial(reinforcement, critic=False),
    "ppo": partial(reinforcement, critic=True),
}


def main() -> None:
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    model = load_pretrained(Path(asked["model"]))
    step = STEPS[asked["row"]](model, asked["work"])
    seconds, parts = [], []
    for _ in range(asked["steps"] + 1):
        begun = time.perf_counter()
        parts.append(step())
        seconds.append(time.perf_counter() - begun)
    split = {name: statistics.median(part[name] for part in parts[1:]) for name in parts[0]}
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak_gib": peak_gib(), **split}))


if __name__ == "__main__":
    main()
