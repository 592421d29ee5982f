"""The reinforcement loop: sample, reward, learn, sample again with the new weights. Knows no method.

A step draws the policy's own answers (`rollout.py`), hands them to a learner (`grpo.py`, `ppo.py`, `distillation.py`),
watches what came of it (`health.py`) and now and then writes a checkpoint. The engine reads the trainer's live weights
or adapter, so publishing a policy is forgetting the keys and values of the old one; no file is written in between.

A run is a pure function of (weights, data, settings, seed). A checkpoint holds parameters and moments of everything
that learns, the learner's own numbers, the step and the number of the next question: killed and resumed, it ends with
the same bits on the CPU. There is no random state to keep, and nothing in it belongs to a rank: of several processes
(`parallel.py`) the first one writes it, and any number of them goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from tutee.train.batch import Group, Loss
from tutee.train.checkpoint import RunCheckpoints, write_json
from tutee.train.claim import UNDECIDING
from tutee.train.health import Limits, Tripped, alarms, reinforcement_health
from tutee.train.loop import LoopConfig, learning_rate_at, take_step
from tutee.train.options import require
from tutee.train.progress import Clock, Progress, Report, silent
from tutee.train.rollout import Collected, Rollout
from tutee.train.trainer import Trainer

TRANSCRIPTS = 4
"""Answers shown at an interval: the best, the worst and two between."""


@dataclass(frozen=True, slots=True)
class ReinforceConfig:
    """How a run goes on, whatever its method."""

    steps: int = 100
    """Times that answers are drawn."""
    learning_rate: float = 1e-4
    """Peak of the schedule."""
    schedule: Literal["linear", "cosine", "constant"] = "constant"
    """How the rate falls after warm-up; linear and cosine end at 0."""
    warmup: float = 0.0
    """Share of the steps in which the rate rises from 0."""
    epochs: int = 1
    """Times that a step's answers are learned from."""
    minibatches: int = 1
    """Optimizer steps an epoch; prompts are dealt among them."""
    token_budget: int = 4096
    """Tokens of one microbatch: memory, never the result."""
    checkpoint_every: int = 10
    """Steps between checkpoints to resume from (the newest two are kept)."""
    transcripts_every: int = 10
    """Steps between looks at what the model answers."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "minibatches", "token_budget", "checkpoint_every", "transcripts_every"):
            require(getattr(self, name) >= 1, name, f"'{name}' must be at least 1.")
        self.schedule_config()

    @property
    def updates(self) -> int:
        """Optimizer steps from one step's answers, when there are prompts enough."""
        return self.epochs * self.minibatches

    def schedule_config(self) -> LoopConfig:
        """The learning-rate part, which the other loop has in common (and checks)."""
        return LoopConfig(learning_rate=self.learning_rate, schedule=self.schedule, warmup=self.warmup)


class Source(Protocol):
    """Where rollouts come from: a `Collector` that draws them, or answers that were served (`served.py`)."""

    @property
    def config(self) -> Any:
        """Its settings dataclass."""
        ...

    def collect(self, step: int, next_question: int, moving: bool = False) -> Collected:
        """One step's rollouts; see `Collector.collect`."""
        ...


class Learner(Protocol):
    """A method at work: what turns a step's rollouts into better weights."""

    @property
    def trainer(self) -> Trainer:
        """The policy."""
        ...

    def learn(
        self, rollouts: Sequence[Rollout], step: int, learning_rate: float, config: ReinforceConfig
    ) -> dict[str, float]:
        """Update from one step's rollouts (step counted from 0), usually by `update`; what to report."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that `load` goes on from, the policy's own left out."""
        ...

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up where `state()` was taken."""
        ...

    def settings(self) -> dict[str, Any]:
        """What decides the method's numbers, as JSON values."""
        ...


@dataclass(frozen=True, slots=True)
class ReinforceResult:
    """How a run ended. `history` has one dict of metrics a step, counted from 1."""

    steps: int
    next_question: int
    history: tuple[dict[str, float], ...]


@dataclass
class _Run:
    """What changes while the loop runs; all of it goes into the checkpoint."""

    step: int = 0
    next_question: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def reinforce(
    learner: Learner,
    source: Source,
    config: ReinforceConfig,
    folder: Path,
    *,
    limits: Limits | None = None,
    report: Report = silent,
    after_step: Callable[[int], dict[str, float]] | None = None,
) -> ReinforceResult:
    """Train to the end, from the last checkpoint in `folder` if there is one.

    Args:
        folder: holds the checkpoints `step-000010` … and `transcripts/`; that of another run is refused.
        limits: tripwires; the defaults when None.
        after_step: called with the step (from 1); what it returns joins the metrics. It must be a function of the
            weights, or a resumed run differs.

    Raises:
        Tripped: a tripwire; the checkpoint before it is kept.
        RewardFailing: too many answers without a reward; start again to go on.
        Diverged: non-finite gradients in a row, or ranks that are not in step. InvalidInput: the checkpoints belong to
            another run.
    """
    limits = limits or Limits()
    checkpoints = RunCheckpoints(folder, _fingerprint(learner, source, config), learner.trainer.ranks)
    run = _goes_on(learner, checkpoints.read())
    schedule = config.schedule_config()
    clock = Clock(run.step)
    while run.step < config.steps:
        started = time.monotonic()
        collected = source.collect(run.step, run.next_question, moving=config.updates > 1)
        sampled = time.monotonic()
        rate = learning_rate_at(run.step, config.steps, schedule)
        values = learner.learn(collected.rollouts, run.step, rate, config) | collected.metrics
        run.step, run.next_question = run.step + 1, collected.next_question
        values |= after_step(run.step) if after_step is not None else {}
        run.history.append({name: value for name, value in values.items() if math.isfinite(value)})
        if learner.trainer.ranks.first and (run.step % config.transcripts_every == 0 or run.step == 1):
            _write_transcripts(folder, run.step, collected.rollouts)
        times = _times(started, sampled, time.monotonic(), collected.rollouts)
        health = reinforcement_health(run.history, limits)
        eta = clock.eta(run.step, config.steps)
        report(Progress("reinforce", run.step, config.steps, run.history[-1] | times, eta, health))
        fatal = [alarm for alarm in alarms(run.history, limits) if alarm.stop]
        if fatal:
            raise Tripped(f"{fatal[0].message} The run stopped; the checkpoint before is kept in {folder.name}.")
        if run.step % config.checkpoint_every == 0 or run.step == config.steps:
            _write(checkpoints, learner, run)
    return ReinforceResult(run.step, run.next_question, tuple(run.history))


def update(
    trainer: Trainer, groups: Sequence[Group], loss: Loss, step: int, learning_rate: float, config: ReinforceConfig
) -> dict[str, float]:
    """The optimizer steps of one reinforcement step: `epochs` walks over the groups, in `minibatches` parts each.

    What is reported is the mean over these steps; `sampler_gap` is the mean |log π - log π_drawn| of the first one,
    where both are the same weights, so that anything above 0 is the sampler's numbers differing from the trainer's.
    """
    reports: list[dict[str, float]] = []
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, step, epoch]).permutation(len(groups))
        for part in np.array_split(order, min(config.minibatches, len(groups))):
            minibatch = [groups[i] for i in sorted(part)]
            reports.append(take_step(trainer, minibatch, loss, learning_rate, config.token_budget))
    names = dict.fromkeys(name for values in reports for name in values)
    out = {name: float(np.mean([values[name] for values in reports if name in values])) for name in names}
    out["tokens"] = sum(values["tokens"] for values in reports)
    if "log_ratio" in reports[0]:
        out["sampler_gap"] = reports[0]["log_ratio"]
    return out


def _times(started: float, sampled: float, ended: float, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Seconds and rates of a step: shown, but no part of the history, because no two runs have the same."""
    tokens = sum(len(rollout.answer.token_ids) for rollout in rollouts)
    return {
        "seconds": ended - started,
        "sample_seconds": sampled - started,
        "sampled_tokens_per_second": tokens / max(1e-9, sampled - started),
        "tokens_per_second": tokens / max(1e-9, ended - started),
    }


def _write_transcripts(folder: Path, step: int, rollouts: Sequence[Rollout]) -> None:
    ranked = sorted(rollouts, key=lambda rollout: rollout.reward)
    places = sorted({round(i * (len(ranked) - 1) / (TRANSCRIPTS - 1)) for i in range(TRANSCRIPTS)})
    shown = [
        {
            "messages": [message.to_dict() for message in rollout.answer.question.messages],
            "answer": rollout.answer.text,
            "reward": rollout.reward,
            "terms": rollout.terms,
            "finished": rollout.answer.finished,
        }
        for rollout in (ranked[place] for place in places if ranked)
    ]
    (folder / "transcripts").mkdir(parents=True, exist_ok=True)
    write_json(folder / "transcripts" / f"step-{step:06d}.json", shown)


def _fingerprint(learner: Learner, source: Source, config: ReinforceConfig) -> str:
    """Hash of all that decides the run's numbers. How long it is, and how often it saves, do not."""
    settings = {name: value for name, value in asdict(config).items() if name not in UNDECIDING}
    if config.schedule == "constant" and not config.warmup:
        settings.pop("steps")
    parts = [settings, asdict(source.config), asdict(learner.trainer.config), learner.settings()]
    digest = hashlib.sha256(learner.trainer.model.weights_sha256.encode())
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()


def _goes_on(learner: Learner, saved: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None) -> _Run:
    if saved is None:
        return _Run()
    tensors, state = saved
    learner.trainer.load(tensors, state["trainer"])
    learner.load(tensors, state["learner"])
    return _Run(state["step"], state["next_question"], state["history"])


def _write(checkpoints: RunCheckpoints, learner: Learner, run: _Run) -> None:
    tensors, counters = learner.trainer.state()
    own, state = learner.state()
    checkpoints.write(run.step, tensors | own, {"trainer": counters, "learner": state, **asdict(run)})
