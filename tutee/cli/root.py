"""The root of the command: options that every verb shares, and the verbs in the order a newcomer meets them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tutee import __version__
from tutee.cli.access import keys, projects
from tutee.cli.bench import bench
from tutee.cli.chat import chat
from tutee.cli.erase import erase
from tutee.cli.feedback import feedback
from tutee.cli.learning import improve, jobs
from tutee.cli.migrate import migrate
from tutee.cli.models import models
from tutee.cli.output import errors_in_one_line, out
from tutee.cli.serving import serve, worker
from tutee.cli.training import train
from tutee.cli.upkeep import backup, doctor, restore, upgrade
from tutee.cli.versions import promote, reject, rollback, trace, versions
from tutee.settings import load_settings

HELP = """Your own ChatGPT, taught by the people who use it.

\b
  tutee serve                     chat at http://127.0.0.1:8000, teach it with thumbs, votes and corrections
  tutee improve                   turn what was collected into a new version, and judge it
  tutee versions                  what there is, which one is live, and why
  tutee promote / tutee rollback  put a version live, or take it back
"""


class OneLineErrors(typer.core.TyperGroup):
    """Runs any verb with expected errors shown as one line."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with errors_in_one_line():
            return super().__call__(*args, **kwargs)


app = typer.Typer(
    cls=OneLineErrors,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        sys.exit(0)


@app.callback()
def root(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Where everything lives; TUTEE_HOME, or ~/.tutee.")] = None,
    database: Annotated[
        str | None, typer.Option(help="Database URL; TUTEE_DATABASE_URL, or SQLite in the home.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make the settings that the verb works with."""
    context.obj = load_settings(home=home, database_url=database)


app.command()(serve)
app.command()(bench)
app.command()(chat)
app.command()(improve)
app.add_typer(train, name="train")
app.add_typer(jobs, name="jobs")
app.command()(versions)
app.command()(promote)
app.command()(reject)
app.command()(rollback)
app.command()(trace)
app.add_typer(feedback, name="feedback")
app.add_typer(models, name="models")
app.add_typer(migrate, name="migrate")
app.add_typer(keys, name="keys")
app.add_typer(projects, name="projects")
app.command()(erase)
app.command()(backup)
app.command()(restore)
app.command()(upgrade)
app.command()(doctor)
app.command()(worker)
