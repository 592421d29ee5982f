"""Watching a training run in the terminal: one live line of numbers, and under it how it goes in plain words.

Knows the store's job table and the record that training reports; nothing of methods.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from tutee.cli.output import err, out, show_json, styled
from tutee.cli.versions import show_gate
from tutee.errors import TuteeError
from tutee.lock import is_held
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.jobs import ENDED
from tutee.store.schema import Job

if TYPE_CHECKING:
    from tutee.train import progress as training

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 30.0
SHOWN = {
    "loss": ("loss", "{:.3f}"),
    "reward": ("reward", "{:.3f}"),
    "kl": ("KL", "{:.3f}"),
    "reward_accuracy": ("accuracy", "{:.0%}"),
    "entropy": ("entropy", "{:.2f}"),
    "length": ("length", "{:.0f}"),
    "grad_norm": ("gradient", "{:.2g}"),
    "tokens_per_second": ("tokens/s", "{:.0f}"),
}
"""Numbers in the live line, as far as the method has them."""


def numbers(metrics: Mapping[str, float | None]) -> str:
    """The newest numbers that a person watches, in a line."""
    found = [(name, metrics[name]) for name in SHOWN if name in metrics]
    return "  ".join(
        f"{SHOWN[name][0]} {SHOWN[name][1].format(value)}"
        for name, value in found
        if value is not None and math.isfinite(value)
    )


class Screen:
    """A bar, the numbers and the health line on standard error; in a pipe, one plain line now and then instead."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
        )
        self._task = self._bar.add_task("waiting for the worker", total=None)
        self._said = ""
        self._live = Live(self._lines("", ""), console=err, transient=True, refresh_per_second=4)

    def __enter__(self) -> Screen:
        if err.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if err.is_terminal:
            self._live.stop()

    def show(self, stage: str, step: int, total: int, metrics: Mapping[str, float | None], health: str) -> None:
        """Draw where the run is."""
        self._bar.update(self._task, description=stage, completed=step, total=total or None)
        if err.is_terminal:
            self._live.update(self._lines(numbers(metrics), health))
            return
        line = f"{stage} {step}/{total}  {numbers(metrics)}  {health}".rstrip()
        tenth = step * 10 // total if total else 0
        if f"{stage} {tenth}" != self._said:
            self._said = f"{stage} {tenth}"
            err.print(line)

    def report(self, progress: training.Progress) -> None:
        """What a run in this process calls after every step."""
        self.show(progress.stage, progress.step, progress.total, progress.metrics, progress.health)

    def _lines(self, figures: str, health: str) -> Group:
        return Group(self._bar, *(Text(line, style="dim") for line in (figures, health) if line))


@contextmanager
def worker_for(settings: Settings) -> Iterator[subprocess.Popen[bytes] | None]:
    """A worker of our own while none runs on this home; stopped afterwards, its job goes back into the queue."""
    place = ["--home", str(settings.home), "--database", settings.url]
    command = [sys.executable, "-m", "tutee", *place, "worker", "--once"]
    own = None if is_held(settings.home / "worker.lock") else subprocess.Popen(command)
    try:
        yield own
    finally:
        if own is not None and own.poll() is None:
            own.terminate()
            try:
                own.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:  # a long step; its checkpoint before is whole
                own.kill()
                own.wait()


def follow(settings: Settings, store: Store, job_id: str) -> Job:
    """Watch a job to its end."""
    try:
        with worker_for(settings) as own, Screen() as screen:
            while (job := store.jobs.get(job_id)).status not in (*ENDED, "paused"):
                draw(screen, job, store)
                if own is not None and own.poll() is not None and not in_hands(settings, store, job_id):
                    raise TuteeError(
                        f"The worker ended with status {own.returncode}; job {job_id} waits for the next one."
                    )
                time.sleep(POLL_SECONDS)
        return job
    except KeyboardInterrupt:
        err.print(
            f"Not waiting any longer; `tutee jobs cancel {job_id}` stops the job, the next worker goes on with it."
        )
        raise


def in_hands(settings: Settings, store: Store, job_id: str) -> bool:
    """Whether another worker is there, such as that of a server that began at the same moment, or the job has ended."""
    return is_held(settings.home / "worker.lock") or store.jobs.get(job_id).status in ENDED


def draw(screen: Screen, job: Job, store: Store) -> None:
    """What the store knows of a running job, on the screen."""
    at = job.progress or {}
    newest = {name: values[-1][1] for name, values in store.jobs.metrics(job.id).items() if values}
    health = str(at.get("health") or "")
    screen.show(str(at.get("stage") or job.status), at.get("step") or 0, at.get("total_steps") or 0, newest, health)


def finish(store: Store, job: Job, json: bool) -> None:
    """Say how it ended: the version and the gate's word, or the error."""
    version = store.versions.get(job.version_id) if job.version_id else None
    gate = store.gates.latest(version.id) if version else None
    if json:
        verdict = {"verdict": gate.verdict, "reasons": gate.reasons} if gate else None
        name = version.name if version else None
        show_json({"id": job.id, "status": job.status, "error": job.error, "version": name, "gate": verdict})
    elif job.status != "succeeded":
        error = job.error or {}
        said = f"`tutee jobs resume {job.id}` goes on." if job.status == "paused" else error.get("message", "")
        err.print(styled("[red]{}[/] {}: {}", job.status, job.id, said))
    else:
        assert version is not None
        out.print(styled("Version {} is [bold]{}[/]", version.number, version.name))
        if gate is not None:
            show_gate(gate)
            out.print(f"Put it live with `tutee promote {version.number}`." if gate.verdict == "pass" else "")
    if job.status != "succeeded":
        raise typer.Exit(1)
