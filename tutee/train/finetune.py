"""Training on fixed rows: whatever the loss, the same way from rows to servable folders.

Encodes the rows, scores the reference where the loss wants one, checks that the run fits into memory, trains with
validation after each epoch, and writes one servable version an epoch. Knows no method: the encoder of a row and the
loss are handed in (`methods.py`). Knows nothing of HTTP, of the store or of who asked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group, Loss, check_groups
from tutee.train.checkpoint import write_json
from tutee.train.dpo import with_references
from tutee.train.encode import Encoded
from tutee.train.loop import BeforeStep, LoopConfig, evaluate_loss, measure, train
from tutee.train.memory import refuse_groups
from tutee.train.task import Checkpoint, Task, Trained
from tutee.train.trainer import Trainer, TrainerConfig

Accuracy = Callable[[Trainer, Sequence[Group], int], float]
Measure = Callable[[Sequence[Group], Loss], Tensor]
LOOKED_AT = 64
"""Groups of the training data on which an accuracy is measured."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a person should know of the data: `too_long` are 1-based lines that were left out."""

    too_long: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


NOTHING_SAID = Read()


class LossConfig(Protocol):
    """The part of a method's settings that makes its loss."""

    def loss(self) -> Loss: ...


@dataclass(frozen=True, slots=True)
class FixedData:
    """What a method on fixed rows has of its own.

    Args:
        config: the part of the settings that makes the loss.
        groups: encodes a file's rows, given these settings.
        reference: the loss compares with the policy as it was before the first step.
        before_step: (settings, measure) -> what makes a step's groups and loss (`loop.BeforeStep`), if anything does;
            `measure(groups, loss)` is a loss of the policy as it then is.
        trainer: makes the trainer; a reward model's has a head.
        after_save: (trainer, all groups, folder) adds to a saved version; called on every rank.
        accuracy: (trainer, groups, token budget) -> a share of right guesses, reported after each epoch.
    """

    config: type[LossConfig]
    groups: Callable[[Pretrained, Sequence[Any], Any], Encoded]
    reference: bool = False
    before_step: Callable[[Any, Measure], BeforeStep | None] = lambda config, measure: None
    trainer: Callable[[Task], Trainer] = lambda task: Trainer(task.base, task.chosen[TrainerConfig], task.start)
    after_save: Callable[[Trainer, list[Group], Path], None] = lambda trainer, groups, folder: None
    accuracy: Accuracy | None = None

    def __call__(self, task: Task) -> Trained:
        """Run, or go on where a broken-off run in `task.folder` was.

        Raises:
            InvalidInput: nothing to learn from, naming the line. Diverged: see `loop.train`.
        """
        if (task.folder / "result.json").exists():
            return read_result(task.folder)
        trainer, config = self.trainer(task), task.chosen[self.config]
        encoded = self.groups(task.base, task.examples, config)
        held_out = self._validation(task, config)
        groups, valid = list(encoded.groups), list(held_out.groups)
        check_groups(groups)
        if self.reference:
            scored = _references(task.folder, [*groups, *valid], trainer)
            groups, valid = scored[: len(groups)], scored[len(groups) :]
        look = partial(measure, trainer, token_budget=task.chosen[LoopConfig].token_budget)
        before_step, finish = self.before_step(config, look), partial(self.after_save, trainer, groups)
        context = task.base.config.max_position_embeddings
        notes = encoded.sentences(context) + [f"Of the validation file: {s}" for s in held_out.sentences(context)]
        data = Read(encoded.too_long, tuple(notes))
        return learn_and_save(task, trainer, groups, valid, config.loss(), data, before_step, finish, self.accuracy)

    def _validation(self, task: Task, config: Any) -> Encoded:
        """The validation rows, whose errors are not the training file's."""
        if not task.validation:
            return Encoded(())
        try:
            return self.groups(task.base, task.validation, config)
        except InvalidInput as error:
            param = "validation_file" if error.param == "training_file" else error.param
            raise InvalidInput(error.message, param=param, code=error.code) from None


def learn_and_save(
    task: Task,
    trainer: Trainer,
    groups: Sequence[Group],
    valid: Sequence[Group],
    loss: Loss,
    data: Read = NOTHING_SAID,
    before_step: BeforeStep | None = None,
    after_save: Callable[[Path], None] = lambda folder: None,
    accuracy: Accuracy | None = None,
) -> Trained:
    """The loop, and after each epoch a version in `versions/step-…` with the loss on `valid` among its numbers.

    Args:
        data: what a person should know of it.
        after_save: called with each version's folder, to add to it.
        accuracy: see `FixedData`; measured on `valid`, and on the first `LOOKED_AT` groups that are trained on.
    """
    loop = task.chosen[LoopConfig]
    refuse_groups(trainer, groups, loop.token_budget)

    def after_epoch(epoch: int, step: int) -> dict[str, float]:
        version = version_folder(task.folder, step)
        if trainer.ranks.first:
            shutil.rmtree(version, ignore_errors=True)
        trainer.save(version)
        after_save(version)
        looked_at, own_loss = (valid, loss) if before_step is None or not valid else before_step(valid)
        measured = evaluate_loss(trainer, looked_at, own_loss, loop.token_budget) if valid else {}
        measured = {f"valid_{name}": value for name, value in measured.items() if name != "entropy"}
        for part, of in (("train", groups[:LOOKED_AT]), ("valid", valid)):
            if accuracy is not None and of:
                measured[f"{part}_mean_token_accuracy"] = accuracy(trainer, of, loop.token_budget)
        return measured

    done = train(
        trainer,
        groups,
        loss,
        loop,
        task.folder / "checkpoints",
        report=task.report,
        before_step=before_step,
        after_epoch=after_epoch,
    )
    if trainer.ranks.first:
        per_epoch = done.steps // loop.epochs
        epochs = {str(step): done.history[step - 1] for step in range(per_epoch, done.steps + 1, per_epoch)}
        said = {"steps": done.steps, "trained_tokens": done.trained_tokens, "skipped_steps": done.skipped}
        write_json(task.folder / "result.json", {**said, **asdict(data), "versions": epochs})
        shutil.rmtree(task.folder / "checkpoints", ignore_errors=True)
    trainer.ranks.wait()
    return read_result(task.folder)


def read_result(folder: Path) -> Trained:
    """What a finished run in `folder` came to."""
    said = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    versions: Mapping[str, Mapping[str, float]] = said.pop("versions")
    checkpoints = tuple(Checkpoint(int(step), version_folder(folder, int(step)), m) for step, m in versions.items())
    return Trained(checkpoints, **{**said, "too_long": tuple(said["too_long"]), "notes": tuple(said["notes"])})


def version_folder(folder: Path, step: int) -> Path:
    """Where the servable version after `step` is."""
    return folder / "versions" / f"step-{step:06d}"


def _references(folder: Path, groups: Sequence[Group], trainer: Trainer) -> list[Group]:
    """Groups scored under the model before its first step; kept in a file, for a resumed run starts from other
    weights."""
    path = folder / "references.json"
    if not path.exists():
        scored = with_references(groups, trainer.score)
        trainer.ranks.wait()
        if trainer.ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, [[e.reference_logprobs for e in group.examples] for group in scored])
        trainer.ranks.wait()
    stored = json.loads(path.read_text(encoding="utf-8"))
    flat = iter([logprobs for group in stored for logprobs in group])
    return with_references(groups, lambda sequences: [torch.tensor(next(flat)[1:]) for _ in sequences])
