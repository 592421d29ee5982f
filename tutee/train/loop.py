"""The one training loop: order, schedule, accumulation, checkpoints, exact resume, and what it tells the world.

A run is a pure function of (groups, loss, config, trainer seed): the order of the groups comes from the seed and the
epoch alone, so the step number is the whole data cursor. Knows no method and no file format of the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tutee.errors import Diverged
from tutee.train.batch import Group, Loss, check_groups, pack_groups, totals
from tutee.train.checkpoint import RunCheckpoints
from tutee.train.claim import UNDECIDING
from tutee.train.health import supervised_health
from tutee.train.metrics import Metrics
from tutee.train.options import require
from tutee.train.progress import Clock, Progress, Report, silent
from tutee.train.trainer import Trainer

RUNAWAY_LOSS = 20.0
"""Nats. A uniform guess over 250,000 tokens costs 12.4, so a step above this has forgotten language, not learned."""
RUNAWAY_GROWTH = 10.0
"""Losses in other units begin elsewhere (IPO's at 1/(2β)², 25 by default): such a one runs away when it has grown so
many times since the first step."""


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How groups become steps."""

    epochs: int = 1
    """Times that every row is seen."""
    batch_size: int = 4
    """Rows in one optimizer step."""
    learning_rate: float = 4e-4
    """Peak of the schedule."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after warm-up; linear and cosine end at 0."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises from 0."""
    token_budget: int = 2048
    """Tokens of one microbatch: memory, never the result."""
    checkpoint_every: int = 10
    """Steps between checkpoints to resume from (the newest two are kept)."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 50, "epochs", "'epochs' must be between 1 and 50.")
        require(1 <= self.batch_size <= 256, "batch_size", "'batch_size' must be between 1 and 256.")
        require(self.learning_rate > 0, "learning_rate", "'learning_rate' must be above 0.")
        require(
            self.schedule in ("linear", "cosine", "constant"), "schedule", "'schedule' is linear, cosine or constant."
        )
        require(0 <= self.warmup < 1, "warmup", "'warmup' must be in [0, 1).")
        require(self.token_budget >= 1, "token_budget", "'token_budget' must be at least 1.")
        require(self.checkpoint_every >= 1, "checkpoint_every", "'checkpoint_every' must be at least 1.")


@dataclass(frozen=True, slots=True)
class LoopResult:
    """How a run ended. `history` has one dict of metrics a step, counted from 1."""

    steps: int
    trained_tokens: int
    skipped: int
    history: tuple[dict[str, float], ...]


def num_steps(groups: int, config: LoopConfig) -> int:
    """Optimizer steps of the whole run; the last step of an epoch may be short."""
    return math.ceil(groups / config.batch_size) * config.epochs


def learning_rate_at(step: int, total: int, config: LoopConfig) -> float:
    """The rate of step `step` (from 0) of `total`: linear warm-up to the peak, then the schedule."""
    warmup = math.ceil(total * config.warmup) if config.warmup else 0
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if config.schedule == "linear":
        return config.learning_rate * (1 - done)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate


def groups_of_step(groups: Sequence[Group], step: int, config: LoopConfig) -> list[Group]:
    """The groups of one step: a fresh shuffle each epoch, a function of (seed, epoch) only."""
    per_epoch = math.ceil(len(groups) / config.batch_size)
    epoch, within = divmod(step, per_epoch)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(groups))
    return [groups[i] for i in order[within * config.batch_size : (within + 1) * config.batch_size]]


BeforeStep = Callable[[Sequence[Group]], tuple[list[Group], Loss]]
"""From a step's groups of the data to the groups that are trained and their loss: KTO measures the policy here."""


@dataclass
class _Run:
    """What changes while the loop runs; `step`, `tokens` and `history` go into the checkpoint."""

    step: int = 0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    trainer: Trainer,
    groups: Sequence[Group],
    loss: Loss,
    config: LoopConfig,
    folder: Path,
    *,
    report: Report = silent,
    stage: str = "train",
    before_step: BeforeStep | None = None,
    after_epoch: Callable[[int, int], dict[str, float]] | None = None,
) -> LoopResult:
    """Train to the end, from the last checkpoint in `folder` if there is one.

    Args:
        folder: holds the checkpoints `step-000010` …; a folder of another run (other groups or config) is refused.
            The loss must be the same.
        before_step: see there; it makes each step's loss, in the place of `loss`.
        after_epoch: called with (epoch, step), both from 1, after each epoch; what it returns joins the step's metrics.

    Raises:
        InvalidInput: nothing to learn from, or the checkpoints belong to another run.
        Diverged: non-finite or runaway loss; the last good checkpoint stays in `folder`.
    """
    check_groups(groups)
    checkpoints = RunCheckpoints(folder, _fingerprint(groups, config, trainer), trainer.ranks)
    run, saved = _Run(), checkpoints.read()
    if saved is not None:
        tensors, state = saved
        trainer.load(tensors, state["trainer"])
        run = _Run(state["step"], state["tokens"], state["history"])
    total = num_steps(len(groups), config)
    per_epoch = total // config.epochs
    clock = Clock(run.step)
    while run.step < total:
        started = time.monotonic()
        rate = learning_rate_at(run.step, total, config)
        chosen = groups_of_step(groups, run.step, config)
        learned, step_loss = (chosen, loss) if before_step is None else before_step(chosen)
        values = take_step(trainer, learned, step_loss, rate, config.token_budget)
        _refuse_runaway(values["loss"], first=run.history[0]["loss"] if run.history else values["loss"])
        step_tokens = int(values.pop("tokens"))
        run.tokens += step_tokens
        run.step += 1
        if run.step % per_epoch == 0 and after_epoch is not None:
            values |= after_epoch(run.step // per_epoch, run.step)
        run.history.append(values)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        # Shown, but no part of the history: no two runs have the same.
        pace = {"tokens_per_second": step_tokens / max(1e-9, time.monotonic() - started)}
        eta = clock.eta(run.step, total)
        report(Progress(stage, run.step, total, finite | pace, eta, supervised_health(run.history)))
        if run.step % config.checkpoint_every == 0 or run.step == total:
            tensors, counters = trainer.state()
            checkpoints.write(run.step, tensors, {"trainer": counters, **asdict(run)})
    return LoopResult(run.step, run.tokens, trainer.skipped, tuple(run.history))


def take_step(
    trainer: Trainer, groups: Sequence[Group], loss: Loss, learning_rate: float, token_budget: int
) -> dict[str, float]:
    """One optimizer step over `groups` in microbatches of `token_budget`; what it reports, with `tokens` of the step.

    A non-finite gradient changes nothing and is counted (`skipped_steps`).
    """
    denominators = totals(groups)
    metrics = Metrics()
    for part, own in trainer.ranks.parts(groups, token_budget):
        said = trainer.forward_backward(pack_groups(part, share_prompts=True), loss, denominators)
        metrics += said if own else Metrics()
    done = trainer.optim_step(learning_rate, metrics)
    metrics = trainer.ranks.add_metrics(done.metrics)
    values = metrics.values()
    values["loss"] = metrics.total("loss")  # the microbatches share one denominator, so their losses add
    values |= {"learning_rate": learning_rate, "grad_norm": done.grad_norm, "skipped_steps": float(trainer.skipped)}
    values["tokens"] = float(sum(group.num_tokens for group in groups))
    return values


def evaluate_loss(trainer: Trainer, groups: Sequence[Group], loss: Loss, token_budget: int) -> dict[str, float]:
    """The loss and its metrics over all groups at once, without learning."""
    denominators = totals(groups)
    metrics = Metrics()
    for part, own in trainer.ranks.parts(groups, token_budget):
        said = trainer.forward(pack_groups(part, share_prompts=True), loss, denominators)
        metrics += said if own else Metrics()
    metrics = trainer.ranks.add_metrics(metrics.settled())
    return {**metrics.values(), "loss": metrics.total("loss")}


def measure(trainer: Trainer, groups: Sequence[Group], loss: Loss, token_budget: int) -> Tensor:
    """A loss over all groups at once, without learning: a number on the device, which is not waited for."""
    denominators = totals(groups)
    total = torch.zeros((), dtype=torch.float64, device=trainer.device)
    for part, _ in trainer.ranks.parts(groups, token_budget):
        total += trainer.forward(pack_groups(part, share_prompts=True), loss, denominators).parts["loss"][0]
    return trainer.ranks.add(total)


def _refuse_runaway(loss: float, first: float) -> None:
    most = max(RUNAWAY_LOSS, RUNAWAY_GROWTH * first) if math.isfinite(first) else RUNAWAY_LOSS
    if math.isfinite(loss) and loss > most:
        raise Diverged(
            f"The loss ran away to {loss:.1f}; training stopped. The last good checkpoint is kept. "
            "Lower the learning rate.",
            param="learning_rate",
        )


def _fingerprint(groups: Sequence[Group], config: LoopConfig, trainer: Trainer) -> str:
    """Hash of all that decides the run's numbers but the loss, which is the caller's (`claim.py`)."""
    digest = hashlib.sha256(trainer.model.weights_sha256.encode())
    settings = {name: value for name, value in asdict(config).items() if name not in UNDECIDING}
    digest.update(json.dumps([settings, asdict(trainer.config)], sort_keys=True).encode())
    for group in groups:
        said = group.weight, group.ranks, group.margin, group.label, [(e.tokens, e.mask) for e in group.examples]
        digest.update(repr(said).encode())
    return digest.hexdigest()
