"""The fine-tuning jobs of the API: supervised and dpo, from lists of examples to servable folders.

Resolves `auto` hyperparameters, trains with validation after each epoch, and writes one servable version an epoch.
Knows the shape of OpenAI's hyperparameters and of its examples; nothing of HTTP, of the store or of who asked.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from tutee.data.openai_format import Preference, Supervised
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group, Loss, check_groups
from tutee.train.checkpoint import write_json
from tutee.train.dpo import dpo_loss, with_references
from tutee.train.encode import encode_answer, encode_messages
from tutee.train.loop import LoopConfig, evaluate_loss, train
from tutee.train.options import read_options, require
from tutee.train.progress import Report, silent
from tutee.train.sft import token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

Method = Literal["supervised", "dpo"]

BASE_LEARNING_RATE = {
    ("supervised", False): 2e-4,
    ("dpo", False): 2e-4,
    ("supervised", True): 2e-5,
    ("dpo", True): 2e-6,
}
"""What `learning_rate_multiplier` multiplies, by (method, all weights). A LoRA wants about ten times the rate."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """OpenAI's hyperparameters, every `auto` resolved. `beta` is DPO's only."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    beta: float | None = None


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """What OpenAI's hyperparameters do not say."""

    full: bool = False
    """Train all weights instead of a LoRA."""
    rank: int = 16
    alpha: float = 32.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    """DPO: the share of labels taken to be wrong."""
    sft_weight: float = 0.0
    """DPO: times the chosen answer's mean token NLL, added to the loss."""
    token_budget: int = 2048

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 0.5, "label_smoothing", "'label_smoothing' must be in [0, 0.5).")
        require(self.sft_weight >= 0, "sft_weight", "'sft_weight' must not be negative.")


@dataclass(frozen=True, slots=True)
class EpochCheckpoint:
    """A servable version: adapter or whole model after an epoch, and the numbers OpenAI reports for it."""

    step: int
    folder: Path
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """`checkpoints` has one entry an epoch, the last is the result. `too_long` are 1-based lines that were left out."""

    checkpoints: tuple[EpochCheckpoint, ...]
    steps: int
    trained_tokens: int
    skipped_steps: int
    too_long: tuple[int, ...]


def resolve_hyperparameters(method: Method, raw: Mapping[str, Any], num_examples: int) -> Hyperparameters:
    """Check OpenAI's hyperparameters and replace every `auto` or absent one by a number.

    Few examples get small batches and several epochs, because a LoRA needs some tens of steps to move at all.

    Raises:
        InvalidInput: an unknown key, one that the method does not have, or a value out of range; `param` is
            `method.dpo.hyperparameters.beta` and the like.
    """
    automatic: dict[str, int | float] = {
        "n_epochs": 3 if num_examples < 500 else 2 if num_examples < 5000 else 1,
        "batch_size": 4 if num_examples < 500 else 8 if num_examples < 5000 else 16,
        "learning_rate_multiplier": 1.0,
    }
    if method == "dpo":
        automatic |= {"beta": 0.1, "n_epochs": 2 if num_examples < 100 else 1}
    where = f"method.{method}.hyperparameters"
    for key, value in raw.items():
        require(key in automatic, f"{where}.{key}", f"'{key}' is not a hyperparameter of {method}.")
        if value == "auto" or value is None:
            continue
        automatic[key] = _checked(key, value, f"{where}.{key}")
    return Hyperparameters(**automatic)  # type: ignore[arg-type]


def finetune(
    model: Pretrained,
    method: Method,
    examples: Sequence[Supervised] | Sequence[Preference],
    hyperparameters: Hyperparameters,
    folder: Path,
    *,
    validation: Sequence[Supervised] | Sequence[Preference] = (),
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> FinetuneResult:
    """Train a LoRA (or, with settings `{"full": true}`, all weights); goes on where a broken-off run in `folder` was.

    Args:
        folder: the job's folder; versions are written to `folder/versions/step-…`, and an adapter's checkpoints belong
            to it.
        validation: examples whose loss is reported after each epoch (`valid_loss`).
        settings: `FinetuneSettings` by name.

    Raises:
        InvalidInput: nothing to learn from, naming the line. Diverged: see `loop.train`.
    """
    if (folder / "result.json").exists():
        return _read_result(folder)
    chosen = read_options(FinetuneSettings, settings or {})
    trainer = Trainer(model, _trainer_config(chosen, seed))
    loop = _loop_config(chosen, method, hyperparameters, seed)
    groups, too_long = make_groups(model, examples)
    valid_groups, _ = make_groups(model, validation) if validation else ([], ())
    check_groups(groups)
    loss: Loss = token_mean_loss
    if method == "dpo":
        beta = hyperparameters.beta or 0.1
        loss = partial(dpo_loss, beta=beta, label_smoothing=chosen.label_smoothing, sft_weight=chosen.sft_weight)
        scored = _references(folder, [*groups, *valid_groups], trainer)
        groups, valid_groups = scored[: len(groups)], scored[len(groups) :]

    def after_epoch(epoch: int, step: int) -> dict[str, float]:
        version = _version_folder(folder, step)
        shutil.rmtree(version, ignore_errors=True)
        trainer.save(version)
        if not valid_groups:
            return {}
        measured = evaluate_loss(trainer, valid_groups, loss, chosen.token_budget)
        return {f"valid_{name}": value for name, value in measured.items() if name != "entropy"}

    result = train(trainer, groups, loss, loop, folder / "checkpoints", report=report, after_epoch=after_epoch)
    per_epoch = result.steps // loop.epochs
    epochs = {str(step): result.history[step - 1] for step in range(per_epoch, result.steps + 1, per_epoch)}
    said = {"steps": result.steps, "trained_tokens": result.trained_tokens, "skipped_steps": result.skipped}
    write_json(folder / "result.json", {**said, "too_long": too_long, "epochs": epochs})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return _read_result(folder)


def _read_result(folder: Path) -> FinetuneResult:
    said = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    checkpoints = [EpochCheckpoint(int(s), _version_folder(folder, int(s)), m) for s, m in said.pop("epochs").items()]
    return FinetuneResult(tuple(checkpoints), **{**said, "too_long": tuple(said["too_long"])})


def make_groups(
    model: Pretrained, examples: Sequence[Supervised] | Sequence[Preference]
) -> tuple[list[Group], tuple[int, ...]]:
    """(one group an example, the lines of examples that do not fit the context and are left out).

    Raises:
        InvalidInput: a line with nothing to learn (`all_masked`) or with two equal answers (`identical_pair`).
    """
    groups, too_long = [], []
    for example in examples:
        if isinstance(example, Supervised):
            encoded = [encode_messages(model, example.messages)]
        else:
            answers = (example.preferred, example.non_preferred)
            encoded = [encode_answer(model, example.prompt, answer) for answer in answers]
        fitting = tuple(e for e in encoded if e is not None)
        if len(fitting) < len(encoded):
            too_long.append(example.line)
            continue
        group = Group(fitting, ranks=(0, 1) if len(fitting) == 2 else None)
        try:
            check_groups([group])
        except InvalidInput as error:
            message = error.message.replace("Row 1", f"line {example.line}").removesuffix(".")
            raise InvalidInput(f"{message}.", param="training_file", code=error.code) from None
        groups.append(group)
    if examples and not groups:
        length = model.config.max_position_embeddings
        raise InvalidInput(
            f"None of the {len(examples)} examples fits the model's context of {length} tokens.",
            param="training_file",
            code="empty_dataset",
        )
    return groups, tuple(too_long)


def _checked(key: str, value: Any, param: str) -> int | float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key in ("n_epochs", "batch_size"):
        most = 50 if key == "n_epochs" else 256
        require(number and value == int(value) and 1 <= value <= most, param, f"'{key}' must be 'auto' or 1 to {most}.")
        return int(value)
    if key == "beta":
        require(number and 0 < value <= 2, param, "'beta' must be 'auto' or above 0 and at most 2.")
    require(number and value > 0, param, f"'{key}' must be 'auto' or a number above 0.")
    return float(value)


def _trainer_config(settings: FinetuneSettings, seed: int) -> TrainerConfig:
    return TrainerConfig(
        full=settings.full,
        rank=settings.rank,
        alpha=settings.alpha,
        weight_decay=settings.weight_decay,
        seed=seed,
    )


def _loop_config(settings: FinetuneSettings, method: Method, hyperparameters: Hyperparameters, seed: int) -> LoopConfig:
    rate = BASE_LEARNING_RATE[method, settings.full] * hyperparameters.learning_rate_multiplier
    return LoopConfig(
        epochs=hyperparameters.n_epochs,
        batch_size=hyperparameters.batch_size,
        learning_rate=rate,
        schedule=settings.schedule,
        warmup=settings.warmup,
        token_budget=settings.token_budget,
        checkpoint_every=100 if settings.full else 10,  # all weights and their moments are large files
        seed=seed,
    )


def _references(folder: Path, groups: Sequence[Group], trainer: Trainer) -> list[Group]:
    """Groups scored under the model before its first step; kept in a file, for a resumed run starts from other
    weights."""
    path = folder / "references.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scored = with_references(groups, trainer.score)
        write_json(path, [[e.reference_logprobs for e in group.examples] for group in scored])
    stored = json.loads(path.read_text(encoding="utf-8"))
    flat = iter([logprobs for group in stored for logprobs in group])
    return with_references(groups, lambda sequences: [torch.tensor(next(flat)[1:]) for _ in sequences])


def _version_folder(folder: Path, step: int) -> Path:
    return folder / "versions" / f"step-{step:06d}"
