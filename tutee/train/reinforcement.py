"""Methods that learn from the model's own answers, put together from settings: questions, rewards, sampler, learner.

What each part does is in its own file (`environments.py`, `rewards.py`, `rollout.py`, `reinforce.py`); the methods are
`grpo.py`, `ppo.py`, `distillation.py` and `best_of_n.py`. Here a run gets its parts, its versions and its ending: when
a tripwire stops it, the last good checkpoint becomes the result. Knows nothing of jobs or of the store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tutee.data.openai_format import read_supervised
from tutee.engine.engine import Engine
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.train.best_of_n import BestOfNConfig, collect_best
from tutee.train.checkpoint import latest_checkpoint, read_checkpoint, write_json
from tutee.train.distillation import Distillation, DistillationConfig, Teacher
from tutee.train.environments import Environment, Match, Question, QuestionList, ReasoningGym
from tutee.train.finetune import learn_and_save, read_result, version_folder
from tutee.train.grpo import Grpo, GrpoConfig
from tutee.train.health import Limits, Tripped
from tutee.train.memory import refuse
from tutee.train.options import require
from tutee.train.ppo import Ppo, PpoConfig, make_critic
from tutee.train.progress import Progress, Report, Sample
from tutee.train.reinforce import Learner, ReinforceConfig, reinforce
from tutee.train.reward_model import RewardModel
from tutee.train.rewards import EndTerm, FormatTerm, FunctionReward, LengthTerm, ModelReward, Rewards, TaskReward, Term
from tutee.train.rollout import Collector, Reference, RolloutConfig
from tutee.train.sft import sft_groups
from tutee.train.task import Task, Trained
from tutee.train.trainer import Trainer, TrainerConfig

MOST_AT_ONCE = 64
"""Answers that are written at the same time."""


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """What is asked, and what an answer earns: the sum of all terms that are set."""

    match: Match | None = None
    """1 for an answer that fits the row's `answer`: wholly, somewhere, or by its last number. Unset: exact, unless
    another reward is given."""
    gym: str | None = None
    """A task of reasoning-gym instead of a data file, such as `basic_arithmetic`."""
    grader: str | None = None
    """A Python function `grade(sample, item) -> number`, as `file.py:grade` or `package.module:grade`."""
    reward_model: str | None = None
    """Folder of a reward model (`tutee train reward`) on the same base."""
    format: str | None = None
    """A regular expression that the whole answer should match, for `format_weight`."""
    format_weight: float = 0.2
    """What fitting `format` earns."""
    free_length: int | None = None
    """Tokens from which an answer loses reward, up to 1 at the length limit."""
    end_penalty: float = 0.0
    """Taken off an answer that was cut off."""

    def __post_init__(self) -> None:
        require(self.format_weight > 0, "format_weight", "'format_weight' must be above 0.")
        require(self.end_penalty >= 0, "end_penalty", "'end_penalty' must not be negative.")
        require(self.gym is None or self.match is None, "match", "A gym task judges its own answers.")

    @property
    def judged_by(self) -> Match:
        """How rows of a file are compared with their answers."""
        return self.match or ("none" if self.grader or self.reward_model or self.format else "exact")


@dataclass(frozen=True, slots=True)
class ValidationSettings:
    """How the questions of a validation file are put to the policy."""

    eval_interval: int = 10
    """Steps between two validations; the policy is saved as a version at each. The first step and the last have one."""
    eval_samples: int = 1
    """Answers to each question, drawn with the same random numbers every time."""

    def __post_init__(self) -> None:
        require(self.eval_interval >= 1, "eval_interval", "'eval_interval' must be at least 1.")
        require(1 <= self.eval_samples <= 64, "eval_samples", "'eval_samples' must be between 1 and 64.")


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """When a run is stopped before it spoils the policy (`health.py`)."""

    watch_length: bool = False
    """Stop when answers get much longer or shorter; wrong for tasks that must change their length."""
    watched: str | None = None
    """A reward (task, grader, model, format, length, end) that counts nothing and is only looked at; stop when it
    falls while the others rise."""

    def limits(self, most_kl: float | None) -> Limits:
        kl = None if most_kl is None else (most_kl / 2, most_kl)
        whole = Limits(kl=kl, watched=self.watched)
        return whole if self.watch_length else replace(whole, longer=None, shorter=None)


@dataclass(frozen=True, slots=True)
class DistanceSettings:
    """How far a policy may go, where its distance from the start is measured."""

    most_kl: float | None = 15.0
    """Nats an answer from the start at which a run stops."""

    def __post_init__(self) -> None:
        require(self.most_kl is None or self.most_kl > 0, "most_kl", "'most_kl' must be above 0.")


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """Who is learned from."""

    teacher: str = ""
    """Folder of the larger model; it must have the same tokenizer."""

    def load(self, student: Pretrained) -> Pretrained:
        """Raises InvalidInput: none is named, or there is none."""
        require(bool(self.teacher), "settings.teacher", "Name the teacher's folder: teacher=PATH.")
        return load_pretrained(Path(self.teacher), str(student.dtype).removeprefix("torch."))


@dataclass(frozen=True, slots=True)
class MixSettings:
    """What PPO-ptx mixes in."""

    ptx_data: str | None = None
    """Supervised file whose rows are imitated beside the reward (`ptx` says how much)."""


@dataclass(frozen=True, slots=True)
class Reinforced:
    """A method of the reinforcement loop. `learner` makes it from a task, its trainer and the reward model, if any."""

    learner: Callable[[Task, Trainer, RewardModel | None], Learner]

    def __call__(self, task: Task) -> Trained:
        """Run to the end, or go on; the last policy is the result, or after a tripwire the last good checkpoint."""
        if (task.folder / "result.json").exists():
            return read_result(task.folder)
        trainer = Trainer(task.base, task.chosen[TrainerConfig], task.start)
        folder, run, notes = task.folder / "checkpoints", task.chosen[ReinforceConfig], []
        with collecting(task, trainer) as (collector, judge):
            learner = self.learner(task, trainer, judge)
            most_kl = task.chosen[DistanceSettings].most_kl if task.chosen.has(DistanceSettings) else None
            limits, report = task.chosen[WatchSettings].limits(most_kl), with_samples(task.report, folder)
            look = partial(validate, task, trainer, collector) if task.validation else None
            try:
                done = reinforce(learner, collector, run, folder, limits=limits, report=report, after_step=look)
                steps, history = done.steps, done.history
            except Tripped as tripped:
                steps, history = go_back(trainer, folder, tripped)
                notes.append(tripped.message)
        trainer.save(version_folder(task.folder, steps))
        if trainer.ranks.first:
            said = {"steps": steps, "trained_tokens": int(sum(values.get("tokens", 0) for values in history))}
            saved = sorted(int(path.name.removeprefix("step-")) for path in (task.folder / "versions").glob("step-*"))
            versions = {str(step): history[step - 1] for step in saved if step <= len(history)}
            write_json(task.folder / "result.json", {**said, "too_long": [], "notes": notes, "versions": versions})
            shutil.rmtree(folder, ignore_errors=True)
        trainer.ranks.wait()
        return read_result(task.folder)


def validate(task: Task, trainer: Trainer, collector: Collector, step: int) -> dict[str, float]:
    """What the policy's answers to the validation questions earn, as `valid_…`, and a version of it; at most steps
    nothing. A function of the weights, so a resumed run says the same."""
    settings, last = task.chosen[ValidationSettings], task.chosen[ReinforceConfig].steps
    if step not in (1, last) and step % settings.eval_interval:
        return {}
    if step != 1:
        folder = version_folder(task.folder, step)
        if trainer.ranks.first:
            shutil.rmtree(folder, ignore_errors=True)
        trainer.save(folder)
    rows = [Question(row.messages, row.item) for row in task.validation]
    judged_by = task.chosen[RewardSettings].judged_by
    drawn = collector.elsewhere(QuestionList(rows, task.seed, judged_by), len(rows), settings.eval_samples)
    return {f"valid_{name}": value for name, value in drawn.metrics.items() if name in ("reward", "length", "finished")}


def go_back(trainer: Trainer, folder: Path, tripped: Tripped) -> tuple[int, tuple[dict[str, float], ...]]:
    """Put the last good checkpoint's weights back; its step and the history until there. Without one the run has no
    result: raises `tripped`."""
    newest = latest_checkpoint(folder)
    if newest is None:
        raise tripped
    tensors, state = read_checkpoint(newest)
    trainer.load(tensors, state["trainer"])
    return int(state["step"]), tuple(state["history"])


@contextmanager
def collecting(task: Task, trainer: Trainer) -> Iterator[tuple[Collector, RewardModel | None]]:
    """The questions, the rewards and the sampler of a run, closed at its end; and its reward model, if it has one."""
    settings, rollout = task.chosen[RewardSettings], task.chosen[RolloutConfig]
    with ExitStack() as open_parts:
        environment = environment_of(task)
        judge = None if settings.reward_model is None else judge_of(task, Path(settings.reward_model))
        terms = terms_of(task, environment, judge, open_parts)
        most = min(MOST_AT_ONCE, rollout.prompts * rollout.group)
        room = task.base.config.max_position_embeddings
        cache = room + most * min(room, rollout.max_tokens + 256)
        refuse(trainer, token_budget_of(task), min(room, rollout.max_tokens + 256), cache, copies_of(task))
        engine = Engine(trainer.answering(), max_batch=most, cache_tokens=cache, autostart=False)
        open_parts.callback(engine.close)
        yield Collector(trainer, engine, environment, Rewards(terms), rollout), judge


def terms_of(
    task: Task, environment: Environment, judge: RewardModel | None, open_parts: ExitStack
) -> list[tuple[float, Term]]:
    """All that an answer is judged by, with its weight; what must be closed again goes to `open_parts`."""
    settings, longest = task.chosen[RewardSettings], task.chosen[RolloutConfig].max_tokens
    terms: list[tuple[float, Term]] = [(1.0, term) for term in task.terms]
    if settings.gym is not None or settings.judged_by != "none":
        terms.append((1.0, TaskReward(environment)))
    if settings.grader is not None:
        function = FunctionReward(settings.grader, name="grader")
        open_parts.callback(function.close)
        terms.append((1.0, function))
    if judge is not None:
        terms.append((1.0, ModelReward(judge.score)))
    if settings.format is not None:
        terms.append((settings.format_weight, FormatTerm(settings.format)))
    if settings.free_length is not None:
        fits = 0 <= settings.free_length < longest
        require(fits, "settings.free_length", f"'free_length' must be from 0 to below 'max_tokens' ({longest}).")
        terms.append((1.0, LengthTerm(settings.free_length, longest)))
    if settings.end_penalty:
        terms.append((settings.end_penalty, EndTerm()))
    watched = task.chosen[WatchSettings].watched if task.chosen.has(WatchSettings) else None
    return terms if watched is None else only_looked_at(watched, terms)


def only_looked_at(watched: str, terms: list[tuple[float, Term]]) -> list[tuple[float, Term]]:
    """The terms with the watched one at weight 0.

    Raises:
        InvalidInput: it is not there, or nothing else is.
    """
    names = [term.name for _, term in terms]
    there = ", ".join(names)
    require(watched in names, "settings.watched", f"'watched' is {watched!r}; this run's rewards are: {there}.")
    require(len(names) > 1, "settings.watched", f"'watched' is the only reward, {watched}: there must be another one.")
    return [(0.0 if term.name == watched else weight, term) for weight, term in terms]


def judge_of(task: Task, folder: Path) -> RewardModel:
    """The reward model in a folder. It is given the policy's tokens, so it must read them as the policy does.

    Raises:
        InvalidInput: see `RewardModel.load`; or another tokenizer or template (`wrong_tokenizer`).
    """
    judge = RewardModel.load(folder, task.base)
    ours, theirs = ((m.tokenizer.sha256, m.chat_format.sha256) for m in (task.base, judge.model))
    if ours != theirs:
        raise InvalidInput(
            f"The reward model in {folder} has another tokenizer or chat template than {task.base.name}: it could not "
            "read its answers.",
            param="settings.reward_model",
            code="wrong_tokenizer",
        )
    return judge


def token_budget_of(task: Task) -> int:
    """Tokens of a microbatch, whichever loop it is that learns."""
    return int(task.chosen.flat()["token_budget"])


def copies_of(task: Task) -> int:
    """Networks in memory: with all weights in training a reference is a copy, and a critic is another."""
    if not task.chosen[TrainerConfig].full:
        return 1
    return 3 if task.chosen.has(PpoConfig) else 2 if task.chosen.has(GrpoConfig) else 1


def environment_of(task: Task) -> Environment:
    """The rows of the file, or the gym task that stands in their place."""
    settings = task.chosen[RewardSettings]
    if settings.gym is None:
        for row in task.examples:
            if settings.judged_by != "none" and not isinstance(row.item.get("answer"), str):
                raise InvalidInput(
                    f"line {row.line} has no text 'answer' to compare with; add one, or give another reward.",
                    param="training_file",
                    code="missing_required_parameter",
                )
        questions = [Question(row.messages, row.item) for row in task.examples]
        return QuestionList(questions, task.seed, settings.judged_by)
    if task.examples:
        raise InvalidInput("Give a data file or a gym task, not both.", param="settings.gym", code="invalid_value")
    return ReasoningGym(settings.gym, seed=task.seed)


def with_samples(report: Report, folder: Path) -> Report:
    """A report that adds the transcripts of a step, where the loop wrote some."""

    def add(progress: Progress) -> None:
        path = folder / "transcripts" / f"step-{progress.step:06d}.json"
        if path.exists():
            rows = json.loads(path.read_text(encoding="utf-8"))
            said = [Sample(str(row["messages"][-1].get("content", "")), row["answer"], row["reward"]) for row in rows]
            progress = replace(progress, samples=said)
        report(progress)

    return add


def grpo_learner(task: Task, trainer: Trainer, judge: RewardModel | None) -> Learner:
    return Grpo(trainer, task.chosen[GrpoConfig], Reference(trainer, task.start))


def ppo_learner(task: Task, trainer: Trainer, judge: RewardModel | None) -> Learner:
    """PPO whose critic begins as the reward model, where there is one of the same kind of training."""
    config, mix = task.chosen[PpoConfig], task.chosen[MixSettings]
    alike = judge is not None and (judge.lora is None) == trainer.config.full
    critic = make_critic(trainer, trainer.config, judge if alike else None)
    require(config.ptx == 0 or mix.ptx_data is not None, "settings.ptx_data", "'ptx' needs rows: ptx_data=FILE.")
    rows = []
    if mix.ptx_data is not None:
        require(config.ptx > 0, "settings.ptx", "'ptx_data' is given but 'ptx' is 0.")
        with Path(mix.ptx_data).open("rb") as stream:
            rows = list(sft_groups(task.base, list(read_supervised(stream, "settings.ptx_data"))).groups)
    return Ppo(trainer, critic, config, Reference(trainer, task.start), rows)


def distillation_learner(task: Task, trainer: Trainer, judge: RewardModel | None) -> Learner:
    teacher = task.chosen[TeacherSettings].load(task.base)
    return Distillation(trainer, Teacher(teacher, task.base), task.chosen[DistillationConfig])


def best_of_n(task: Task) -> Trained:
    """Sample, keep the best, imitate it."""
    if task.validation:
        raise InvalidInput(
            "best_of_n looks at no validation file: what its answers earn is said for each round of drawing.",
            param="validation_file",
            code="inapplicable_parameter",
        )
    if (task.folder / "result.json").exists():
        return read_result(task.folder)
    config, trainer = task.chosen[BestOfNConfig], Trainer(task.base, task.chosen[TrainerConfig], task.start)

    def on_round(number: int, values: dict[str, float]) -> None:
        task.report(Progress("candidates", number, config.rounds, values))

    with collecting(task, trainer) as (collector, _):
        groups = collect_best(collector, config, task.folder / "rounds", on_round)
    if not groups:
        raise InvalidInput(
            "No answer was better than the others to its question and ended by itself, so there is nothing to imitate. "
            "Allow longer answers (max_tokens), draw more of them (group), or judge them by another reward.",
            param="settings.group",
            code="no_signal",
        )
    return learn_and_save(task, trainer, groups, [], config.loss())
