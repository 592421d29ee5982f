"""The one way in: every method by name, and the function that runs any of them.

`tutee train`, the API's fine-tuning jobs and Python all come through `run`. To add a method: its loss and settings in a
file of their own, and one entry here. Knows nothing of jobs, of the store or of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tutee.data.openai_format import read_preferences, read_supervised
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.train import parallel
from tutee.train.dpo import DpoConfig, dpo_groups
from tutee.train.finetune import FixedData
from tutee.train.loop import LoopConfig
from tutee.train.progress import Report, silent
from tutee.train.record import Recorder
from tutee.train.sft import SftConfig, sft_groups
from tutee.train.task import Chosen, Method, Task, Trained, choose, describe
from tutee.train.trainer import TrainerConfig


def few_rows(lora_rate: float, full_rate: float, rows: int, full: bool) -> Mapping[str, Any]:
    """Few examples get small batches and several epochs, because a LoRA needs some tens of steps to move at all. A
    LoRA wants about ten times the rate of all weights, whose checkpoints are also too large to write often."""
    return {
        "learning_rate": full_rate if full else lora_rate,
        "epochs": 3 if rows < 500 else 2 if rows < 5000 else 1,
        "batch_size": 4 if rows < 500 else 8 if rows < 5000 else 16,
        "checkpoint_every": 100 if full else 10,
    }


def few_pairs(rows: int, full: bool) -> Mapping[str, Any]:
    """Preferences are forgotten into quickly: at most two epochs."""
    return {**few_rows(2e-4, 2e-6, rows, full), "epochs": 2 if rows < 100 else 1}


def _dpo_line(chosen: Chosen) -> str:
    own = chosen[DpoConfig]
    parts = [f"{own.shape} of {own.beta:g}·[log π/π_ref(chosen) − log π/π_ref(rejected)]"]
    parts += ["a token"] if own.length_normalised else []
    parts += [f"{own.label_smoothing:.0%} of labels wrong"] if own.label_smoothing else []
    parts += [f"+ {own.sft_weight:g}·NLL(chosen)"] if own.sft_weight else []
    return " ".join(parts)


SHARED = (TrainerConfig, LoopConfig)

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="sft",
            says="Imitate the given answers.",
            loss=lambda chosen: f"−{chosen[SftConfig].mean} mean of log π",
            data='{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}',
            parts=(*SHARED, SftConfig),
            defaults=partial(few_rows, 2e-4, 2e-5),
            read=read_supervised,
            run=FixedData(SftConfig, lambda model, rows, config: sft_groups(model, rows)),
        ),
        Method(
            name="dpo",
            says="Make the preferred answer likelier than the other one, tied to the model as it is.",
            loss=_dpo_line,
            data='{"input": {"messages": […]}, "preferred_output": [{…}], "non_preferred_output": [{…}]}',
            parts=(*SHARED, DpoConfig),
            defaults=few_pairs,
            read=read_preferences,
            run=FixedData(DpoConfig, lambda model, rows, config: dpo_groups(model, rows), reference=True),
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
) -> Trained:
    """Train in `folder`, from the start or from where a broken-off run of the same settings was.

    Args:
        examples, validation: rows as `method.read` makes them.
        settings: by name, over the method's defaults (`task.choose`).

    Raises:
        InvalidInput: a wrong setting, data that teaches nothing, a run that does not fit into memory, or checkpoints of
            another run in `folder`. Diverged: the last good checkpoint is kept.
    """
    chosen = choose(method, settings, len(examples), seed)
    if not parallel.current().first:
        return method.run(Task(model, examples, chosen, folder, validation, seed, silent))
    recorder = Recorder(folder, report)
    try:
        return method.run(Task(model, examples, chosen, folder, validation, seed, recorder))
    finally:
        recorder.close()


def train(
    method: str,
    *,
    data: Path | str,
    folder: Path | str,
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
        data, validation: files in the method's format (`METHODS[method].data`).
        folder: the run's own; versions, checkpoints and metrics are written there.
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
