"""A finished job's curves as a run of Weights & Biases, written offline: who wants it there sends it (`wandb sync`).

Nothing leaves this machine, and nothing about it is recorded. The run is written in one go from the curves that the job
kept, so a job that was paused or killed has one run like any other. Knows names and numbers; nothing of training.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tutee.store.schema import Job
from tutee.worker.curves import Series, in_openai_words

FOLDER = "wandb"


def asked_for(job: Job) -> Mapping[str, Any] | None:
    """What the job's integration says: `project`, and perhaps `name`, `entity` and `tags`; None without one."""
    listed = job.config.get("integrations") or ()
    return next((each["wandb"] for each in listed if each["type"] == "wandb"), None)


def write(job: Job, asked: Mapping[str, Any], series: Series, folder: Path) -> None:
    """Write the run into `folder`/wandb; what an earlier attempt left there goes.

    Raises:
        ImportError: the package is not installed. Others: whatever it raises.
    """
    import wandb

    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True
    )
    run = wandb.init(
        mode="offline",
        id=job.id,
        project=asked["project"],
        name=asked.get("name") or job.id,
        entity=asked.get("entity"),
        tags=list(asked.get("tags") or ()),
        config={"model": job.model, "method": job.method, "seed": job.seed, **job.config.get("hyperparameters", {})},
        dir=str(folder),
        settings=quiet,
    )
    try:
        for step, numbers in by_step(job.method, series):
            run.log(numbers, step=step)
    finally:
        run.finish()


def by_step(method: str, series: Series) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, its numbers in OpenAI's words), in order."""
    curves = {name: dict(values) for name, values in series.items()}
    for step in sorted({step for values in curves.values() for step in values}):
        numbers = in_openai_words(method, {name: values.get(step) for name, values in curves.items()})
        if numbers:
            yield step, numbers
