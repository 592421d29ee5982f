"""Runs of all kinds, for one process or several:  python -m tests.train.tiny_ranks FOLDER [NAME [STEP]]

On fixed data, and `RUNS` that draw their own answers; each goes on in FOLDER/NAME and leaves its numbers there. With
NAME only that one of `RUNS` is made; with STEP the last rank kills itself with SIGKILL after that step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.train.tiny_reinforcement import (
    NO_LIMITS,
    TRAINER,
    LowTokens,
    collector_for,
    grpo_learner,
    ppo_learner,
)
from tests.train.tiny_training import singles, tiny_model
from tutee.conversation import Message
from tutee.data.openai_format import Preference, Supervised
from tutee.data.training_files import Asked, Ranking, Thumb
from tutee.train import parallel
from tutee.train.grpo import Grpo, GrpoConfig, variant
from tutee.train.methods import METHODS, run
from tutee.train.ppo import Ppo, PpoConfig, make_critic
from tutee.train.progress import Progress
from tutee.train.reinforce import Learner, ReinforceConfig, reinforce
from tutee.train.rollout import Reference, RolloutConfig
from tutee.train.trainer import Trainer

ROLLOUT = RolloutConfig(prompts=3, group=4, max_tokens=6, seed=5)
SEVERAL = ReinforceConfig(steps=4, learning_rate=1e-2, epochs=2, minibatches=2, token_budget=200, checkpoint_every=1)
ONCE = replace(SEVERAL, epochs=1, minibatches=1)
FRESH = RolloutConfig(prompts=5, group=3, max_tokens=2, resample=3, seed=6)
"""Answers so short that several groups earn the same throughout: those are drawn again."""
CUT = replace(TRAINER, shard=True)


def cut_grpo() -> Learner:
    trainer = Trainer(tiny_model(), CUT)
    return Grpo(trainer, GrpoConfig(kl=0.01), Reference(trainer))


def cut_ppo() -> Learner:
    trainer = Trainer(tiny_model(), CUT)
    return Ppo(trainer, make_critic(trainer, CUT), PpoConfig(kl_target=1.0, bootstrap_cut=True), Reference(trainer))


RUNS: dict[str, tuple[Callable[[], Learner], ReinforceConfig, RolloutConfig]] = {
    "grpo": (grpo_learner, SEVERAL, ROLLOUT),
    "grpo-lora": (lambda: grpo_learner(variant("dapo"), full=False), ONCE, FRESH),
    "grpo-cut": (cut_grpo, ONCE, ROLLOUT),
    "ppo": (ppo_learner, ONCE, ROLLOUT),  # the critic forecasts in the pass in which it learns
    "ppo-lora": (lambda: ppo_learner(PpoConfig(ptx=0.1, ptx_rows=3), full=False, ptx=singles(12)), SEVERAL, ROLLOUT),
    "ppo-cut": (cut_ppo, SEVERAL, ROLLOUT),
}


def through_the_front(folder: Path) -> None:
    """The same by `methods.run`, with validation and versions on the way."""
    rows = [Asked(i + 1, (Message("user", f"Say {i}."),), {"number": i}) for i in range(5)]
    settings = {"prompts": 3, "group": 4, "max_tokens": 6, "rank": 4, "steps": 4, "match": "none", "eval_interval": 2}
    settings |= {"learning_rate": 1e-2, "checkpoint_every": 2}
    model, terms = tiny_model(), [LowTokens()]
    trained = run(METHODS["grpo"], model, rows, settings, folder, validation=rows[:3], terms=terms, seed=1)
    write(folder, [dict(version.metrics) for version in trained.checkpoints])


def fixed_data(folder: Path) -> None:
    """Copies of an adapter, copies of all weights, cut weights; with thumbs, whose loss looks at the whole step."""
    rows = [
        Supervised(i + 1, (Message("user", f"Say {i}."), Message("assistant", "It is so. " * (i % 4 + 1))))
        for i in range(7)
    ]
    pairs = [
        Preference(i + 1, (Message("user", f"Say {i}."),), Message("assistant", f"{i}"), Message("assistant", "No."))
        for i in range(7)
    ]
    thumbs = [
        Thumb(i + 1, (Message("user", f"Say {i}."),), Message("assistant", f"{i}!"), i % 2 == 0) for i in range(7)
    ]
    rankings = [
        Ranking(
            i + 1, (Message("user", f"Say {i}."),), (Message("assistant", f"{i}"), Message("assistant", "No.")), (0, 1)
        )
        for i in range(7)
    ]
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "token_budget": 60}
    data: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
        "lora": ("dpo", pairs, {"rank": 2}),
        "copies": ("sft", rows, {"full": True}),
        "cut": ("sft", rows, {"full": True, "shard": True}),
        "thumbs": ("kto", thumbs, {"rank": 2}),
        "judge": ("reward", rankings, {"full": True, "shard": True}),
    }
    for name, (method, given, more) in data.items():
        run(METHODS[method], tiny_model(), given, settings | more, folder / name, validation=given[:3])


def write(folder: Path, history: list[dict[str, float]]) -> None:
    if parallel.current().first:
        (folder / "history.json").write_text(json.dumps(history))


def main() -> None:
    torch.set_num_threads(1)
    folder, only = Path(sys.argv[1]), sys.argv[2:]

    def die(progress: Progress) -> None:
        ranks = parallel.current()
        if ranks.rank == ranks.size - 1 and progress.step == int(only[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    with parallel.joined():
        for name, (make, steps, rollout) in RUNS.items():
            if only and name != only[0]:
                continue
            learner = make()
            source = collector_for(learner.trainer, rollout)
            place = folder / name
            report = die if len(only) > 1 else lambda progress: None
            result = reinforce(learner, source, steps, place, limits=NO_LIMITS, report=report)
            write(place, list(result.history))
        if not only:
            through_the_front(folder / "front")
            fixed_data(folder)


if __name__ == "__main__":
    main()
