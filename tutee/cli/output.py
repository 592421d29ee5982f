"""What the terminal shows: tables for people, JSON for scripts, one clear line for errors, bars for long work.

What people, files and models say is shown as it is: no markup is read in it, and no control character of theirs reaches
the terminal. Only `styled` reads markup, in its own template.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tutee.errors import TuteeError

# In a pipe there is no width to fit into: rows stay whole, so that grep and awk see them.
out = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, width=None if sys.stderr.isatty() else 200)

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(said: object) -> str:
    """Somebody's words without what would move the cursor, ring the bell or break the encoding."""
    return CONTROLS.sub("\ufffd", str(said))


def styled(template: str, *words: object) -> Text:
    """A line in rich's markup, each `{}` of it filled with words that are shown as they are."""
    return Text.from_markup(template.format(*(escape(plain(word)) for word in words)))


def show_json(value: Any) -> None:
    """One JSON value on standard output, and nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "none yet") -> None:
    """A titled table; numbers go to the right. A cell that is a `Text` keeps its style."""
    if not rows:
        out.print(styled("[bold]{}[/]: {}", title, empty))
        return
    table = Table(
        title=plain(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else plain("" if cell is None else cell) for cell in row))
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
    """Expected errors, and those of the disk, end the command with one line and status 1; anything else is our bug and
    keeps its traceback."""
    try:
        yield
    except TuteeError as error:
        err.print(styled("[red]error[/]{}: {}", f" ({error.param})" if error.param else "", error.message))
        raise SystemExit(1) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        err.print(styled("[red]error[/]{}: {}.", where, error.strerror or error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        err.print("stopped")
        raise SystemExit(130) from None
