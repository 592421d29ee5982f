"""The one way in: every method by name, and the function that runs any of them.

`tutee train`, the API's fine-tuning jobs and Python all come through `run`. To add a method: its loss and settings in a
file of their own, and one entry here. Knows nothing of jobs, of the store or of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tutee.data.openai_format import read_preferences, read_supervised
from tutee.data.training_files import read_asked, read_rankings, read_texts, read_thumbs
from tutee.errors import InvalidInput
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.value_head import ValueHead
from tutee.train import parallel
from tutee.train.batch import Group
from tutee.train.best_of_n import BestOfNConfig
from tutee.train.claim import UNDECIDING, claim, hash_of
from tutee.train.defaults import few_pairs, few_rows, from_scratch, grpo_defaults, rollouts
from tutee.train.distillation import DistillationConfig
from tutee.train.dpo import DpoConfig, dpo_groups
from tutee.train.finetune import FixedData
from tutee.train.grpo import GrpoConfig, effective_loss
from tutee.train.kto import KtoConfig, kto_groups, with_kl
from tutee.train.loop import LoopConfig
from tutee.train.offline_distillation import OfflineDistillationConfig, distillation_groups
from tutee.train.ppo import PpoConfig
from tutee.train.pretrain import PretrainConfig, new_model, pretrain_groups
from tutee.train.progress import Report, silent
from tutee.train.record import Recorder
from tutee.train.reinforce import ReinforceConfig
from tutee.train.reinforcement import (
    DistanceSettings,
    MixSettings,
    Reinforced,
    RewardSettings,
    TeacherSettings,
    ValidationSettings,
    WatchSettings,
    best_of_n,
    distillation_learner,
    grpo_learner,
    ppo_learner,
)
from tutee.train.reward import RewardConfig, reward_groups
from tutee.train.reward_model import RewardModel, gather_evidence, probe
from tutee.train.rewards import Term
from tutee.train.rollout import RolloutConfig
from tutee.train.sft import SftConfig, sft_groups, token_accuracy
from tutee.train.task import Chosen, Method, Task, Trained, choose, describe
from tutee.train.trainer import Trainer, TrainerConfig


@dataclass(frozen=True, slots=True)
class VariantSettings:
    """A name for several of GRPO's settings at once."""

    variant: Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo"] | None = None
    """A published combination; other settings are put over it."""


def reward_trainer(task: Task) -> Trainer:
    """A trainer of a reward model: with a fresh head, or (`probed`) one that predicts before it has learned."""
    head = ValueHead(task.base.config.hidden_size, task.seed)
    if task.chosen[RewardConfig].probed:
        probe(task.base, head, reward_groups(task.base, task.examples).groups)
    return Trainer(task.base, task.chosen[TrainerConfig], task.start, head)


def keep_evidence(trainer: Trainer, groups: list[Group], folder: Path) -> None:
    """Add to a reward model's folder how sure it is of what."""
    assert trainer.head is not None
    model = trainer.answering()  # every rank must ask: cut weights are put together by all of them
    if trainer.ranks.first:
        evidence = gather_evidence(model, trainer.lora, trainer.head, groups)
        RewardModel(model, trainer.lora, trainer.head, evidence).save(folder)


def pretrain(task: Task) -> Trained:
    """A new model from the text, or further pretraining of the one that is given."""
    config = task.chosen[PretrainConfig]
    shape = [f.name for f in fields(PretrainConfig) if getattr(config, f.name) != f.default]
    if task.model is not None and shape:
        raise InvalidInput(
            f"'settings.{shape[0]}' would change nothing: it is a new model's, and {task.model.name} is trained on.",
            param=f"settings.{shape[0]}",
            code="inapplicable_parameter",
        )
    ranks = parallel.current()
    if task.model is None and ranks.first:
        new_model(config, task.examples, task.folder / "new", task.seed)
    ranks.wait()
    model = task.model or new_model(config, task.examples, task.folder / "new", task.seed)
    run_it = FixedData(PretrainConfig, lambda model, rows, config: pretrain_groups(model, rows))
    return run_it(replace(task, model=model))


def offline_distillation(task: Task) -> Trained:
    """Learn what the teacher thinks of each token of the given answers."""
    teacher = task.chosen[TeacherSettings].load(task.base)
    run_it = FixedData(
        OfflineDistillationConfig, lambda model, rows, config: distillation_groups(model, teacher, rows, config)
    )
    return run_it(task)


def _dpo_line(chosen: Chosen) -> str:
    own = chosen[DpoConfig]
    parts = [f"{own.shape} of {own.beta:g}·[log π/π_ref(chosen) − log π/π_ref(rejected)]"]
    parts += ["a token"] if own.length_normalised else []
    parts += [f"{own.label_smoothing:.0%} of labels wrong"] if own.label_smoothing else []
    parts += [f"+ {own.sft_weight:g}·NLL(chosen)"] if own.sft_weight else []
    return " ".join(parts)


def _ppo_line(chosen: Chosen) -> str:
    own = chosen[PpoConfig]
    target = "" if own.kl_target is None else f" (moved towards {own.kl_target:g} nats)"
    ptx = f" − {own.ptx:g}·mean log π(ptx_data)" if own.ptx else ""
    clip = f"{1 - own.clip_low:g}, {1 + own.clip_high:g}"
    reward = f"reward − {own.kl_price:g}{target}·KL"
    return f"−min(ρA, clip(ρ, {clip})A){ptx}, A by GAE(γ {own.gamma:g}, λ {own.lam:g}) of {reward}"


FIXED = (TrainerConfig, LoopConfig)
SAMPLED = (TrainerConfig, RolloutConfig, RewardSettings)
LOOPED = (*SAMPLED, ReinforceConfig, ValidationSettings, WatchSettings)
CHAT = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}'
PAIR = '{"input": {"messages": […]}, "preferred_output": [{…}], "non_preferred_output": [{…}]}'
QUESTION = '{"prompt": "What is 2 + 3?", "answer": "5"}'

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="sft",
            says="Imitate the given answers.",
            loss=lambda chosen: f"−{chosen[SftConfig].mean} mean of log π",
            data=CHAT,
            parts=(*FIXED, SftConfig),
            defaults=partial(few_rows, 2e-4, 2e-5),
            read=read_supervised,
            run=FixedData(SftConfig, lambda model, rows, config: sft_groups(model, rows), accuracy=token_accuracy),
        ),
        Method(
            name="dpo",
            says="Make the preferred answer likelier than the other one, tied to the model as it is.",
            loss=_dpo_line,
            data=PAIR,
            parts=(*FIXED, DpoConfig),
            defaults=partial(few_pairs, 2e-4, 2e-6),
            read=read_preferences,
            run=FixedData(DpoConfig, lambda model, rows, config: dpo_groups(model, rows), reference=True),
        ),
        Method(
            name="kto",
            says="Learn from thumbs: answers that people liked or disliked, each on its own.",
            loss=lambda chosen: f"1 − σ(±{chosen[KtoConfig].beta:g}·(log π/π_ref − z)), + liked, − disliked",
            data='{"prompt": "Hi", "completion": "Hello.", "label": true}',
            parts=(*FIXED, KtoConfig),
            defaults=partial(few_pairs, 2e-4, 2e-6),
            read=read_thumbs,
            run=FixedData(
                KtoConfig,
                kto_groups,
                reference=True,
                before_step=lambda config, measure: (
                    partial(with_kl, measure=measure, config=config) if config.kl else None
                ),
            ),
        ),
        Method(
            name="reward",
            says="A reward model: score what people preferred above what they did not.",
            loss=lambda chosen: f"−log σ(s_better − s_worse{' − margin' if chosen[RewardConfig].margins else ''})",
            data=f'{PAIR}\n  {{"prompt": "Hi", "completions": ["best", "good", "bad"]}}',
            parts=(*FIXED, RewardConfig),
            defaults=partial(few_pairs, 1e-4, 5e-6),
            read=read_rankings,
            run=FixedData(
                RewardConfig,
                lambda model, rows, config: reward_groups(model, rows),
                trainer=reward_trainer,
                after_save=keep_evidence,
            ),
            result="reward",
        ),
        Method(
            name="pretrain",
            says="A new model from nothing but text, with a tokenizer of its own.",
            loss=lambda chosen: "−token mean of log π",
            data="plain text; documents are divided by blank lines",
            parts=(*FIXED, PretrainConfig),
            defaults=from_scratch,
            read=read_texts,
            run=pretrain,
            needs_model=False,
        ),
        Method(
            name="offline_distillation",
            says="Learn what a larger teacher thinks of each token of given answers.",
            loss=lambda chosen: f"KL(teacher's top {chosen[OfflineDistillationConfig].top_k} ‖ π) a token",
            data=CHAT,
            parts=(*FIXED, OfflineDistillationConfig, TeacherSettings),
            defaults=partial(few_rows, 2e-4, 2e-5),
            read=read_supervised,
            run=offline_distillation,
        ),
        Method(
            name="best_of_n",
            says="Draw several answers to each question, keep the best by a reward, imitate it.",
            loss=lambda chosen: f"−mean log π(best of {chosen[RolloutConfig].group})",
            data=QUESTION,
            parts=(*SAMPLED, LoopConfig, BestOfNConfig),
            defaults=partial(few_rows, 2e-4, 2e-5),
            read=read_asked,
            run=best_of_n,
            stages=("candidates", "train"),
            samples=True,
        ),
        Method(
            name="grpo",
            says="Learn from a reward: answers to one question are judged against each other.",
            loss=lambda chosen: effective_loss(chosen[GrpoConfig]),
            data=QUESTION,
            parts=(*LOOPED, DistanceSettings, GrpoConfig, VariantSettings),
            defaults=grpo_defaults,
            read=read_asked,
            run=Reinforced(grpo_learner),
            stages=("reinforce",),
            samples=True,
        ),
        Method(
            name="ppo",
            says="Learn from a reward with a critic and a price on moving away, as ChatGPT was made.",
            loss=_ppo_line,
            data=QUESTION,
            parts=(*LOOPED, DistanceSettings, PpoConfig, MixSettings),
            defaults=rollouts,
            read=read_asked,
            run=Reinforced(ppo_learner),
            stages=("reinforce",),
            samples=True,
        ),
        Method(
            name="distillation",
            says="Answer, and learn from what a larger teacher thinks of every token of the answer.",
            loss=lambda chosen: f"KL(π ‖ teacher), discount {chosen[DistillationConfig].discount:g}",
            data=QUESTION,
            parts=(*LOOPED, DistillationConfig, TeacherSettings),
            defaults=rollouts,
            read=read_asked,
            run=Reinforced(distillation_learner),
            stages=("reinforce",),
            samples=True,
        ),
    )
}

ALIASES = {"supervised": "sft"}
"""OpenAI's names for ours."""


def find(name: str, param: str = "method") -> Method:
    """A method by its name, or by OpenAI's.

    Raises:
        InvalidInput: no such method; the error lists them.
    """
    method = METHODS.get(ALIASES.get(name, name))
    if method is None:
        raise InvalidInput(
            f"'{name}' is not a method. There are: {', '.join(METHODS)}.", param=param, code="unknown_method"
        )
    return method


def run(
    method: Method,
    model: Pretrained | None,
    examples: Sequence[Any],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    validation: Sequence[Any] = (),
    seed: int = 0,
    report: Report = silent,
    terms: Sequence[Term] = (),
    start: Lora | None = None,
) -> Trained:
    """Train in `folder`, from the start or from where a broken-off run of the same settings was.

    Args:
        examples, validation: rows as `method.read` makes them.
        settings: by name, over the method's defaults (`task.choose`).
        terms, start: see `Task`.

    Raises:
        InvalidInput: a wrong setting, data that teaches nothing, a run that does not fit into memory, or checkpoints of
            another run in `folder`. Diverged: the last good checkpoint is kept.
    """
    chosen = choose(method, settings, len(examples), seed)
    task = Task(model, examples, chosen, folder, validation, seed, terms=terms, start=start)
    claim(folder, _decides(method, task), free=("steps",), writes=parallel.current().first)
    if not parallel.current().first:
        return method.run(task)
    recorder = Recorder(folder, report)
    try:
        return method.run(replace(task, report=recorder))
    finally:
        recorder.close()


def _decides(method: Method, task: Task) -> dict[str, Any]:
    """All that a run comes of, but for `terms`, which have no names for what they are. How many `steps` it has is
    decided when it ends; where the schedule depends on them, `reinforce` sees to it."""
    return {
        **{name: value for name, value in task.chosen.flat().items() if name not in UNDECIDING},
        "method": method.name,
        "seed": task.seed,
        "base model": None if task.model is None else task.model.weights_sha256,
        "adapter": None if task.start is None else parallel.digest(task.start.state_dict()),
        "data": hash_of(task.examples),
        "validation data": hash_of(task.validation),
    }


def train(
    method: str,
    *,
    folder: Path | str,
    data: Path | str | None = None,
    model: Pretrained | Path | str | None = None,
    validation: Path | str | None = None,
    seed: int = 0,
    dtype: str = "bfloat16",
    report: Report = silent,
    **settings: Any,
) -> Trained:
    """Train from a file, in one call; called again after a crash it goes on.

        trained = train("dpo", model="models/smollm2", data="pairs.jsonl", folder="out", beta=0.2)

    Args:
        folder: the run's own; versions, checkpoints and metrics are written there.
        data, validation: files in the method's format (`METHODS[method].data`).
        model: an opened model or its folder.
        dtype: how a folder is opened, `bfloat16` (fast) or `float32` (exact).
        settings: the method's, by name.

    Raises:
        InvalidInput: see `run`; also a file that cannot be read, or a bad line in it, by number.
    """
    found = find(method)
    if found.needs_model and model is None:
        raise InvalidInput(
            f"{found.name} needs a model to start from.", param="model", code="missing_required_parameter"
        )
    rows, valid = (read_rows(found, path) for path in (data, validation))
    choose(found, settings, len(rows), seed)  # before the model is loaded
    opened = load_pretrained(Path(model), dtype) if isinstance(model, Path | str) else model
    return run(found, opened, rows, settings, Path(folder), validation=valid, seed=seed, report=report)


def read_rows(method: Method, path: Path | str | None, param: str = "data") -> list[Any]:
    """All rows of a file; none without one."""
    if path is None:
        return []
    try:
        with Path(path).open("rb") as stream:
            return list(method.read(stream, param))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", param=param, code="unreadable_file") from error


__all__ = ["ALIASES", "METHODS", "Method", "Task", "Trained", "choose", "describe", "find", "read_rows", "run", "train"]
