"""The default of `improve`: from tens of noisy votes and corrections to one adapter, in minutes on two cores.

1. head: votes and corrections teach a small model of taste on surface features of answers (`preference_head.py`).
   Unless it predicts votes that it has not seen, nothing is optimised against it.
2. replay: the base answers a few short questions, to be imitated beside everything that follows: skills stay.
3. imitate: a LoRA learns what people wrote themselves, corrections and demonstrations, as answers to imitate and as
   pairs over what the model had said. Per nat of KL this teaches most, and the candidates that follow are better and,
   where people like short answers, half as long to sample.
4. candidates, pairs: the policy answers the users' prompts several times; the head picks the best and the worst.
5. train: DPO on those pairs (the sampler's own log-probs are the reference), mixed with imitation.
6. guard: the adapter is scaled back as far as its distance to the base, its lengths and its repetition demand.

Every stage that costs time leaves its result in the job folder, complete or absent; the rest is a function of those, so
a restarted job goes on where it was and ends the same. Knows rows and models; nothing of the store, of HTTP, or of who
may promote the result.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tutee.conversation import Message
from tutee.data.rows import Row, sha256_of, to_payload
from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams
from tutee.errors import InvalidInput
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Batch, Group, Totals
from tutee.train.candidates import CHUNK, Candidate, SamplingPlan, sample_candidates, training_prompts
from tutee.train.checkpoint import write_json
from tutee.train.claim import claim
from tutee.train.dpo import DpoConfig, dpo_loss, with_references
from tutee.train.features import NAMES, feature_matrix
from tutee.train.guard import TRIES, Drift, Limits, complaints, drift, next_scale
from tutee.train.lessons import Lessons, describe_text, head_pairs, learn_head, read_lessons
from tutee.train.loop import LoopConfig, train
from tutee.train.metrics import Metrics
from tutee.train.options import read_options, require
from tutee.train.preference_head import PreferenceHead
from tutee.train.progress import Clock, Progress, Report, silent
from tutee.train.replay import LONGEST_ANSWER, replay_groups, replay_prompts
from tutee.train.sft import sequence_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

STAGES = ("head", "replay", "imitate", "candidates", "pairs", "train", "guard")
GUARD_PROMPTS = 48
GUARD_SAMPLES = 3
MOST_REPEATED = 200
"""Rows after repetition; above it every correction or demonstration counts once."""


@dataclass(frozen=True, slots=True)
class RecipeConfig:
    """Every knob of the recipe; the defaults are the measured ones."""

    prompts: int = 96
    """Prompts on which candidates are sampled, the users' own first."""
    candidates: int = 16
    """Answers a prompt."""
    max_tokens: int = 0
    """Longest candidate, in tokens; 0: as long as most of the labelled answers are, within 32 and 256."""
    temperature: float = 0.9
    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 2e-4
    batch_size: int = 4
    beta: float = 0.2
    """DPO's tie to the reference."""
    first_repeats: int = 2
    """How often each correction or demonstration is imitated before candidates are sampled; 0 samples from the base."""
    alone_repeats: int = 6
    """The same when there is no head, so that what people wrote is all there is to learn."""
    sft_repeats: int = 2
    """How often each correction or demonstration is imitated among the head's pairs."""
    replay: int = 256
    """Short questions whose answers by the base are imitated beside the rest, so that skills are kept; 0 for none."""
    rounds: int = 1
    """2 samples once more, from the first round's policy, and goes on from there."""
    max_kl: float = 12.0
    """Nats a reply; a policy further from the base is scaled back."""
    sampling_batch: int = 64
    """Answers sampled at once: memory and speed, never the result."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.prompts <= 10_000, "prompts", "'prompts' must be between 1 and 10000.")
        require(2 <= self.candidates <= 64, "candidates", "'candidates' must be between 2 and 64.")
        require(0 <= self.max_tokens <= 4096, "max_tokens", "'max_tokens' must be between 0 and 4096.")
        require(0 < self.temperature <= 2, "temperature", "'temperature' must be above 0 and at most 2.")
        require(0 < self.beta <= 2, "beta", "'beta' must be above 0 and at most 2.")
        require(0 <= self.first_repeats <= 50, "first_repeats", "'first_repeats' must be between 0 and 50.")
        require(0 <= self.sft_repeats <= 50, "sft_repeats", "'sft_repeats' must be between 0 and 50.")
        require(0 <= self.replay <= 400, "replay", "'replay' must be between 0 and 400.")
        require(self.rounds in (1, 2), "rounds", "'rounds' must be 1 or 2.")
        require(self.max_kl > 0, "max_kl", "'max_kl' must be above 0.")
        require(self.sampling_batch >= 1, "sampling_batch", "'sampling_batch' must be at least 1.")
        self.trainer()
        self.loop()

    def trainer(self) -> TrainerConfig:
        return TrainerConfig(rank=self.rank, alpha=self.alpha, seed=self.seed)

    def loop(self) -> LoopConfig:
        return LoopConfig(batch_size=self.batch_size, learning_rate=self.learning_rate, seed=self.seed)


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """What came out. `notes` are plain sentences for the person; `metrics` numbers for the version's page."""

    folder: Path
    """The adapter, PEFT files."""
    steps: int
    trained_tokens: int
    metrics: Mapping[str, float]
    notes: tuple[str, ...]


def read_config(raw: Mapping[str, Any]) -> RecipeConfig:
    """The settings of an improve job; unknown keys are refused by name."""
    return read_options(RecipeConfig, raw)


def run_recipe(
    model: Pretrained,
    rows: Sequence[Row],
    prompts: Sequence[tuple[Message, ...]],
    config: RecipeConfig,
    folder: Path,
    *,
    report: Report = silent,
) -> RecipeResult:
    """Make an adapter from feedback; goes on from `folder` if a run was broken off there.

    Args:
        rows: the train split of a snapshot (corrections and demos, pairs, thumbs).
        prompts: further prompts of the users (train split) on which candidates may be sampled.
        folder: the job's folder; the adapter is written to `folder/version`.

    Raises:
        InvalidInput: code `not_enough_feedback`, saying how many more labels of which kind are needed.
        Diverged: training ran away; the last good checkpoint stays in `folder`.
    """
    asked = [[message.to_dict() for message in messages] for messages in prompts]
    data = sha256_of([[to_payload(row) for row in rows], asked])
    claim(folder, {**asdict(config), "base model": model.weights_sha256, "data": data})
    if (folder / "result.json").exists():
        return _read_result(folder)
    lessons = read_lessons(model, rows)
    config = replace(config, max_tokens=config.max_tokens or min(max(lessons.answer_tokens, 32), 256))
    run = _Run(model, config, folder, report, lessons, learn_head(lessons.labels, config.seed))
    _judge_head(run)
    labelled = [row.prompt for row in rows]
    run.prompts = training_prompts(model, labelled, prompts, config.prompts, config.max_tokens, config.seed)
    longest = max(len(ids) for _, ids in run.prompts) if run.prompts else 0
    blocks = config.sampling_batch * (longest + config.max_tokens + 64)
    engine = Engine(model, max_batch=config.sampling_batch, cache_tokens=blocks, max_waiting=CHUNK * config.candidates)
    try:
        trainer = Trainer(model, config.trainer())
        run.replayed = _replay(run, engine)
        if lessons.pairs or lessons.imitations:
            groups = _repeated(lessons.imitations, config.first_repeats if run.trusts_head else config.alone_repeats)
            groups += [*with_references(lessons.pairs, trainer.score), *run.replayed]
            _train(run, trainer, groups, "imitate")
        for number in range(1, config.rounds + 1 if run.trusts_head else 1):
            trainer = Trainer(model, config.trainer(), start=trainer.lora)
            _train(run, trainer, _preferences(run, engine, trainer, number), "train", number)
        lora = _guard(run, engine, trainer)
    finally:
        engine.close()
    shutil.rmtree(folder / "version", ignore_errors=True)
    lora.save(folder / "version", model.weights_sha256, model.name)
    said = {"steps": run.steps, "trained_tokens": run.tokens, "metrics": run.metrics, "notes": run.notes}
    write_json(folder / "result.json", said)
    for checkpoints in (*folder.glob("imitate-*"), *folder.glob("train-*")):
        shutil.rmtree(checkpoints, ignore_errors=True)
    return _read_result(folder)


def _read_result(folder: Path) -> RecipeResult:
    said = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return RecipeResult(folder / "version", **{**said, "notes": tuple(said["notes"])})


def learned_reward(folder: Path) -> Callable[[Sequence[Message], str], float] | None:
    """The score that the run in this job folder learned from votes, for any answer's text; None if it trusted none."""
    path = folder / "head.json"
    if not path.exists():
        return None
    head = PreferenceHead.from_dict(json.loads(path.read_text(encoding="utf-8")))
    if not head.trusted:
        return None
    return lambda prompt, text: float(head.score(feature_matrix([describe_text(prompt, text)]))[0])


def recipe_loss(logprob_N: Tensor, batch: Batch, totals: Totals, *, beta: float) -> tuple[Tensor, Metrics]:
    """DPO on the pairs plus sequence-mean NLL on the singles, over one denominator: the step's sum of group weights."""
    preference, metrics = dpo_loss(logprob_N, batch, totals, DpoConfig(beta=beta))
    imitation, more = sequence_mean_loss(logprob_N, batch, totals)
    return preference + imitation, metrics + more


@dataclass
class _Run:
    """What the stages of one run share, and what they have said so far."""

    model: Pretrained
    config: RecipeConfig
    folder: Path
    report: Report
    lessons: Lessons
    head: PreferenceHead | None
    prompts: list[tuple[tuple[Message, ...], tuple[int, ...]]] = field(default_factory=list)
    replayed: list[Group] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    tokens: int = 0

    @property
    def trusts_head(self) -> bool:
        return self.head is not None and self.head.trusted


def _judge_head(run: _Run) -> None:
    """Say how sure the head is; stop here when nothing at all can be learned."""
    head, lessons = run.head, run.lessons
    if lessons.too_long:
        run.notes.append(f"{lessons.too_long} rows are longer than the model's context and were left out.")
    if head is not None:
        run.metrics |= {"head_accuracy": head.accuracy, "head_accuracy_low": head.low, "head_accuracy_high": head.high}
        run.notes.append(head.sentence())
        liked = ", ".join(f"{name} ({weight:+.1f})" for name, weight in head.strongest(NAMES))
        run.notes.append(f"What it learned most from: {liked}.")
        if not head.trusted:
            run.notes.append("That may be chance, so nothing was optimised against these votes.")
    if not run.trusts_head and not lessons.pairs and not lessons.imitations:
        raise InvalidInput(_what_is_missing(run), code="not_enough_feedback")
    if head is not None:
        write_json(run.folder / "head.json", head.to_dict())
    health = run.notes[-1] if run.notes else "Only corrections and demonstrations to learn from."
    run.report(Progress("head", 1, 1, dict(run.metrics), 0.0, health))


def _what_is_missing(run: _Run) -> str:
    """How many more labels of which kind, in one or two sentences."""
    labels, head = run.lessons.labels, run.head
    votes, thumbs = len(labels.chosen), len(labels.thumbs)
    if head is None:
        return (
            f"There is not enough feedback to learn from: {votes} comparisons and {thumbs} thumbs. "
            f"Give at least {max(1, 30 - votes)} more comparisons, or correct at least 5 answers."
        )
    gap = max(head.accuracy - head.chance, 0.03)
    more = max(20, math.ceil(0.96 / gap**2) - len(labels.chosen) - len(labels.thumbs) // 2)
    return (
        f"The votes do not yet show a taste that can be told from chance. {head.sentence()} "
        f"Give about {min(more, 300)} more comparisons, or correct at least 5 answers."
    )


def _preferences(run: _Run, engine: Engine, trainer: Trainer, number: int) -> list[Group]:
    """The head's pairs over answers that the policy gives now, and what people wrote, so that it is not unlearned."""
    assert run.head is not None
    answers = _candidates(run, engine, trainer, f"candidates-{number}", run.config.candidates, run.prompts)
    pairs = head_pairs(run.model, run.head, run.lessons, [messages for messages, _ in run.prompts], answers)
    said = f"The head sees a difference between the answers to {len(pairs)} of {len(run.prompts)} prompts."
    run.notes.append(said)
    run.report(Progress("pairs", len(run.prompts), len(run.prompts), {"pairs": float(len(pairs))}, 0.0, said))
    return pairs + _repeated(run.lessons.imitations, run.config.sft_repeats) + run.replayed


def _replay(run: _Run, engine: Engine) -> list[Group]:
    """What the base says to short questions, to be imitated beside the rest."""
    asked = [tuple(run.model.chat_format.render(m)) for m in replay_prompts(run.config.replay, run.config.seed)]
    plan = SamplingPlan(1, 0.0, LONGEST_ANSWER, run.config.seed)

    def on_prompts(done: int, total: int) -> None:
        run.report(Progress("replay", done, total))

    answers = sample_candidates(engine.generate, asked, plan, run.folder / "replay", on_prompts)
    return replay_groups(run.model, [answer for (answer,) in answers])


def _repeated(groups: Sequence[Group], times: int) -> list[Group]:
    """The groups `times` over; fewer times where there are many, for repeating serves small data only."""
    most = max(1, MOST_REPEATED // max(1, len(groups)))
    return [*groups] * min(times, most)


def _train(run: _Run, trainer: Trainer, groups: Sequence[Group], stage: str, number: int = 1) -> None:
    loss = partial(recipe_loss, beta=run.config.beta)
    folder = run.folder / f"{stage}-{number}"
    result = train(trainer, groups, loss, run.config.loop(), folder, report=run.report, stage=stage)
    run.steps += result.steps
    run.tokens += result.trained_tokens
    run.metrics |= {f"{stage}_loss": result.history[-1]["loss"]}


def _candidates(
    run: _Run,
    engine: Engine,
    trainer: Trainer | None,
    name: str,
    count: int,
    prompts: Sequence[tuple[tuple[Message, ...], tuple[int, ...]]],
    stage: str = "candidates",
) -> list[list[Candidate]]:
    """Answers of the policy in training, or of the base without a trainer."""
    config = run.config
    plan = SamplingPlan(count, config.temperature, config.max_tokens, config.seed)
    clock = Clock()

    def sample(ids: list[tuple[int, ...]], params: list[SamplingParams]) -> list[list[Completion]]:
        if trainer is None:
            return engine.generate(ids, params, n=count)
        return trainer.sample(engine, ids, params, n=count)

    def on_prompts(done: int, total: int) -> None:
        run.report(Progress(stage, done, total, {}, clock.eta(done, total)))

    return sample_candidates(sample, [ids for _, ids in prompts], plan, run.folder / name, on_prompts)


def _guard(run: _Run, engine: Engine, trainer: Trainer) -> Lora:
    """The adapter, scaled back until its answers are not too far from the base's and from what people chose."""
    assert trainer.lora is not None
    prompts = run.prompts[:GUARD_PROMPTS]
    if not prompts:
        run.notes.append("No prompt leaves room for an answer, so how far the model moved was not measured.")
        run.report(Progress("guard", 1, 1, dict(run.metrics), 0.0, run.notes[-1]))
        return trainer.lora
    base_answers = _candidates(run, engine, None, "guard-base", GUARD_SAMPLES, prompts, "guard")
    base = _drift([answer for group in base_answers for answer in group], None)
    limits = Limits(run.config.max_kl)
    scale = 1.0
    for left in range(TRIES - 1, -1, -1):
        lora = trainer.lora.scaled(scale)
        policy = Trainer(run.model, run.config.trainer(), start=lora)
        grouped = _candidates(run, engine, policy, f"guard-{scale:.3f}", GUARD_SAMPLES, prompts, "guard")
        answers = [answer for group in grouped for answer in group]
        measured = _drift(answers, policy.score([a.prompt_ids + a.token_ids for a in answers], reference=True))
        wrong = complaints(measured, base, run.lessons.chosen_texts, limits)
        if not wrong:
            break
        run.notes.append(f"With {scale:.0%} of the adapter {', and '.join(wrong)}.")
        if left:
            scale = next_scale(scale, measured, limits)
    run.metrics |= {**measured.metrics("policy"), **base.metrics("base"), "scale": scale}
    if scale < 1:
        run.notes.append(f"Only {scale:.0%} of the adapter's change is kept.")
    said = f"KL {measured.kl:.1f} nats a reply, {measured.words:.0f} words (base {base.words:.0f})."
    run.report(Progress("guard", 1, 1, dict(run.metrics), 0.0, said))
    return lora


def _drift(answers: Sequence[Candidate], base_scores: Sequence[Tensor] | None) -> Drift:
    kl = [0.0]
    if base_scores is not None:
        pairs = zip(answers, base_scores, strict=True)
        kl = [sum(a.logprobs) - float(score[len(a.prompt_ids) - 1 :].sum()) for a, score in pairs]
    return drift([a.text for a in answers], [a.finished for a in answers], kl)
