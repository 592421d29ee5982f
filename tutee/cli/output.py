"""What the terminal shows: tables for people, JSON for scripts, one clear line for errors, bars for long work."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from tutee.errors import TuteeError

# In a pipe there is no width to fit into: rows stay whole, so that grep and awk see them.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 200)


def show_json(value: Any) -> None:
    """One JSON value on standard output, and nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "none yet") -> None:
    """A titled table; numbers go to the right."""
    if not rows:
        out.print(f"[bold]{title}[/]: {empty}")
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table)


def when(seconds: float | None) -> str:
    """A local time to the minute."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


@contextmanager
def bar(description: str) -> Iterator[Progress]:
    """A progress bar on standard error; add tasks to it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        progress.add_task(description, total=1.0, note="")
        yield progress


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Expected errors end the command with one line and status 1; anything else is our bug and keeps its traceback."""
    try:
        yield
    except TuteeError as error:
        where = f" ({error.param})" if error.param else ""
        err.print(f"[red]error[/]{where}: {error.message}", markup=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        err.print("stopped")
        raise SystemExit(130) from None
