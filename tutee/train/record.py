"""A run's numbers as files in its folder: `metrics.jsonl`, and TensorBoard's event files under `tensorboard/`.

Holds numbers only, never what people or the model said, so that the files may be kept when the rest of a job's folder
is thrown away. A run that goes on after a crash takes back the steps that it runs again.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutee.train.progress import Progress, Report

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILES = ("metrics.jsonl", "tensorboard")
"""What this module writes in a run's folder."""


class Recorder:
    """A report that writes each step down and then passes it on.

    The first step that it sees says from where the run goes on: later ones of the same stage in the file are of a life
    that a crash ended, and are dropped.
    """

    def __init__(self, folder: Path, onward: Report) -> None:
        self._folder = folder
        self._path = folder / FILES[0]
        self._onward = onward
        self._stages: set[str] = set()
        self._writers: dict[str, SummaryWriter] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.metrics:
            if progress.stage not in self._stages:
                self._stages.add(progress.stage)
                self._begin(progress)
            finite = {name: value for name, value in progress.metrics.items() if math.isfinite(value)}
            line = {"stage": progress.stage, "step": progress.step, "time": round(time.time(), 3), **finite}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            writer = self._writers[progress.stage]
            for name, value in finite.items():
                writer.add_scalar(name, value, progress.step)
            if progress.health:
                writer.add_text("health", progress.health, progress.step)
            if progress.step >= progress.total:
                writer.flush()
        self._onward(progress)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _begin(self, progress: Progress) -> None:
        # Importing TensorBoard takes a second or two, which a run that never takes a step need not pay.
        from torch.utils.tensorboard import SummaryWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        kept = [
            line for line in read_metrics(self._path) if line["stage"] != progress.stage or line["step"] < progress.step
        ]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self._path)
        folder = self._folder / FILES[1] / progress.stage
        self._writers[progress.stage] = SummaryWriter(str(folder), purge_step=progress.step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; one that a crash cut off in the middle is left out, a missing file has none."""
    lines = []
    for raw in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(raw))
        except json.JSONDecodeError:
            continue
    return lines
