"""Does it learn? Every reinforcement method on problems whose answer is known, several seeds each.

    python bench/learn.py                   five seeds of everything; `--seeds 1` to look
    python bench/learn.py --only grpo ppo

- grpo, ppo: a tiny character model, taught only what answers look like, learns to write a word backwards from the share
  of right characters. Goal: a mean reward of .95 over the last ten steps, from chance.
- chat: the planted taste of `planted_chat.py`, from demonstrations over a reward model to PPO, and to DPO. Goal: a gold
  win rate above one half for both; the curve of PPO without a price of KL shows over-optimisation.

Each (problem, seed) is a process of one thread, two at a time. A table, then one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = "abcd"
LENGTH = 3
STEPS = 120
GOAL = 0.95


class Backwards:
    """Write three letters backwards; the reward is the share of right ones, nothing for another length."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def question(self, index: int) -> Any:
        from tutee.conversation import Message
        from tutee.train.environments import Question

        word = "".join(np.random.default_rng([self._seed, index]).choice(list(LETTERS), LENGTH))
        return Question((Message("user", word),), {"answer": word[::-1]})

    def score(self, question: Any, text: str) -> float:
        answer = str(question.item["answer"])
        return sum(a == b for a, b in zip(text, answer, strict=False)) / LENGTH if len(text) == LENGTH else 0.0


def backwards(method: str, seed: int) -> dict[str, Any]:
    """Rewards by step, and where the run began: supervised on answers that have the right form and random letters."""
    from characters import imitate, make_model, rows
    from planted_chat import NO_LIMITS

    from tutee.engine.engine import Engine
    from tutee.train.grpo import Grpo, GrpoConfig
    from tutee.train.ppo import Ppo, PpoConfig, make_critic
    from tutee.train.reinforce import Learner, ReinforceConfig, reinforce
    from tutee.train.rewards import Rewards, TaskReward
    from tutee.train.rollout import Collector, Reference, RolloutConfig
    from tutee.train.trainer import Trainer, TrainerConfig

    model = make_model(LETTERS, hidden=64, layers=2, seed=seed)
    dice = np.random.default_rng(seed)
    words = ["".join(dice.choice(list(LETTERS), LENGTH)) for _ in range(1024)]
    imitate(model, rows(model, list(zip(words[::2], words[1::2], strict=True))), 60, 64, 3e-3, seed)
    trainer = Trainer(model, TrainerConfig(full=True, beta2=0.95))
    reference = Reference(trainer)
    learner: Learner
    if method == "ppo":
        critic = make_critic(trainer, TrainerConfig(full=True, beta2=0.95))
        learner, group = Ppo(trainer, critic, PpoConfig(kl_price=0.02, lam=1.0), reference), 2
    else:
        learner, group = Grpo(trainer, GrpoConfig(kl=0.02, scale="none"), reference), 4
    environment = Backwards(seed)
    rollout = RolloutConfig(prompts=256 // group, group=group, max_tokens=LENGTH + 2, seed=seed)
    engine = Engine(model, max_batch=256, cache_tokens=16384, autostart=False)
    collector = Collector(trainer, engine, environment, Rewards([(1.0, TaskReward(environment))]), rollout)
    run = ReinforceConfig(
        steps=STEPS,
        learning_rate=1e-3,
        schedule="linear",
        epochs=2,
        minibatches=2,
        token_budget=8192,
        checkpoint_every=10_000,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        history = reinforce(learner, collector, run, Path(folder), limits=NO_LIMITS).history
    rewards = [values["reward"] for values in history]
    return {"first": rewards[0], "last": float(np.mean(rewards[-10:])), "rewards": rewards[::5]}


def chat(seed: int) -> dict[str, Any]:
    """The planted taste; see `planted_chat.measure`."""
    from planted_chat import measure

    return measure(seed)


def one(problem: str, seed: int) -> dict[str, Any]:
    """Run one problem in this process."""
    import torch

    torch.set_num_threads(1)
    return chat(seed) if problem == "chat" else backwards(problem, seed)


def in_process(problem: str, seed: int) -> dict[str, Any]:
    """Run one problem in a process of its own."""
    started = time.monotonic()
    command = [sys.executable, __file__, "--one", problem, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{problem}, seed {seed}, failed:\n{done.stderr}")
    seconds = time.monotonic() - started
    print(f"{problem} seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str, str, str]]:
    """(problem, measure, mean, by seed) rows."""
    out = []
    for problem, runs in found.items():
        for name in runs[0]:
            if isinstance(runs[0][name], float):
                values = [float(run[name]) for run in runs]
                out.append((problem, name, f"{np.mean(values):.3f}", " ".join(f"{value:.3f}" for value in values)))
    return out


def verdicts(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, bool]:
    """Which goals every seed met."""
    out = {}
    for problem, runs in found.items():
        if problem == "chat":
            for method in ("ppo", "dpo"):
                out[f"chat: {method} wins"] = all(run[f"win_{method}"] > 0.5 for run in runs)
            out["chat: over-optimisation shows"] = all(_over_optimised(run["curve_ppo_free"]) for run in runs)
        else:
            out[f"{problem}: ≥ {GOAL}"] = all(run["last"] >= GOAL for run in runs)
    return out


def _over_optimised(curve: Sequence[Sequence[float]]) -> bool:
    """Whether the model's reward still rises after the peak of the true one, which falls."""
    model, gold = ([point[i] for point in curve] for i in (1, 2))
    peak = int(np.argmax(np.convolve(gold, np.ones(3) / 3, "valid"))) + 1
    return bool(np.mean(model[-3:]) > model[peak] and np.mean(gold[-3:]) < gold[peak] - 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=("grpo", "ppo", "chat"), default=["grpo", "ppo", "chat"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("PROBLEM", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one[0], int(arguments.one[1]))))
        return
    jobs = [(problem, seed) for problem in arguments.only for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(lambda job: in_process(*job), jobs))
    found: dict[str, list[dict[str, Any]]] = {problem: [] for problem in arguments.only}
    for (problem, _), result in zip(jobs, results, strict=True):
        found[problem].append(result)
    for problem, name, mean, by_seed in table(found):
        print(f"{problem:8}{name:18}{mean:>8}   {by_seed}")
    for goal, met in verdicts(found).items():
        print(f"{goal}: {'yes' if met else 'NO'}")
    print(json.dumps({"verdicts": verdicts(found), "runs": found}))


if __name__ == "__main__":
    main()
