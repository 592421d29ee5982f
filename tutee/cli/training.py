"""`tutee train METHOD`: one subcommand a method, each with a help page that teaches it.

With a home the run is a job like those of the API, taken by the worker, and ends as a version that the gate has judged.
With `--folder` it runs here and now, without a home or a database: for trying things, and for `torchrun`. Either way a
run that was killed goes on when the same command is given again. Torch is imported only when something is trained or
explained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tutee.cli.output import err, out, show_json
from tutee.cli.place import open_store, settings_of
from tutee.cli.settings_option import SetOption, parse_settings
from tutee.cli.watch import Screen, finish, follow
from tutee.errors import InvalidInput, NotFound
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.jobs import ENDED
from tutee.store.schema import Job

METHODS = {
    "sft": "Imitate the given answers.",
    "dpo": "Make the preferred answer likelier than the other one, tied to the model as it is.",
    "kto": "Learn from thumbs: answers that people liked or disliked, each on its own.",
    "reward": "A reward model: score what people preferred above what they did not.",
    "pretrain": "A new model from nothing but text, with a tokenizer of its own.",
    "offline_distillation": "Learn what a larger teacher thinks of each token of given answers.",
    "best_of_n": "Draw several answers to each question, keep the best by a reward, imitate it.",
    "grpo": "Learn from a reward: answers to one question are judged against each other.",
    "ppo": "Learn from a reward with a critic and a price on moving away, as ChatGPT was made.",
    "distillation": "Answer, and learn from what a larger teacher thinks of every token of the answer.",
}
"""Names and first lines, known without importing torch; `train/methods.py` has the rest."""


PATH_SETTINGS = {"grader", "reward_model", "teacher", "ptx_data"}


class MethodCommand(typer.core.TyperCommand):
    """A command whose help ends with its method's data format, loss and settings."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from tutee.train.methods import choose, find
        from tutee.train.task import setting_help

        super().format_help(ctx, formatter)
        method = find(self.name or "")
        formatter.write(f"\nOne row of the data:\n  {method.data}\n")
        formatter.write(f"\nLoss:\n  {method.loss(choose(method, {}, 100))}\n")
        formatter.write("\nSettings (--set NAME=VALUE; defaults for about 100 rows):\n")
        for setting in setting_help(method):
            formatter.write(f"  {setting.name}={setting.default}  ({setting.kind})\n")
            if setting.says:
                formatter.write(f"      {setting.says}\n")


train = typer.Typer(
    help="Train a version on a file. `tutee train METHOD --help` explains a method.", no_args_is_help=True
)


def train_method(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Training file; a gym task needs none.", exists=True, dir_okay=False)
    ] = None,
    model: Annotated[
        str, typer.Option(help="What to start from: `chat`, a version or a base; with --folder a model folder.")
    ] = "chat",
    validation: Annotated[Path | None, typer.Option(help="Validation file.", exists=True, dir_okay=False)] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Run here, without a home, and keep everything in this folder.")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="A word in the new version's name.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    set_: SetOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON at the end.")] = False,
) -> None:
    method, chosen = str(context.info_name), with_whole_paths(parse_settings(set_))
    if data is None and "gym" not in chosen:
        raise InvalidInput(f"{method} learns from a file: --data FILE.", param="--data")
    settings = settings_of(context)
    if folder is not None:
        if suffix is not None:
            raise InvalidInput("--suffix names a version in the home; with --folder there is none.", param="--suffix")
        train_here(settings, method, data, model, validation, folder, seed, chosen, json)
        return
    if method == "pretrain":
        raise InvalidInput("pretrain makes a new model: say where with --folder DIR.", param="--folder")
    with open_store(settings) as store:
        model = name_behind(store, model)
        job = find_unfinished(store, method, model, (data, validation), chosen, seed, suffix)
        if job is None:
            job = add_job(store, method, model, (data, validation), chosen, seed, suffix)
        else:
            err.print(f"Going on with {job.id}, which was broken off.")
            if job.pause_requested:
                store.jobs.resume(job.id)
        finish(store, follow(settings, store, job.id), json)


for name, says in METHODS.items():
    train.command(name, cls=MethodCommand, help=says)(train_method)
train.command("supervised", cls=MethodCommand, help=METHODS["sft"], hidden=True)(train_method)


def name_behind(store: Store, model: str) -> str:
    """The version that an alias means now: a job that goes on later must go on from the same one. In a home without
    versions the name itself; the worker fetches the model."""
    try:
        return store.versions.get(model).name
    except NotFound:
        return model


def with_whole_paths(chosen: dict[str, Any]) -> dict[str, Any]:
    """Settings that name a file seen from here, as the worker sees it."""
    out = dict(chosen)
    for key in PATH_SETTINGS & chosen.keys():
        place, colon, function = str(chosen[key]).partition(":")
        if Path(place).exists():
            out[key] = f"{Path(place).resolve()}{colon}{function}"
    return out


def train_here(
    settings: Settings,
    method: str,
    data: Path | None,
    model: str,
    validation: Path | None,
    folder: Path,
    seed: int,
    chosen: dict[str, Any],
    json: bool,
) -> None:
    """Run in this process; under torchrun, in step with the others, of which the first one speaks."""
    from tutee.train import methods, parallel

    with parallel.joined() as ranks:
        place = next(
            (p for p in (Path(model), settings.home / "models" / model) if (p / "config.json").is_file()), None
        )
        found = methods.find(method)
        if place is None and (found.needs_model or model != "chat"):  # who names no model to pretrain gets a new one
            raise InvalidInput(
                f"'{model}' is not a model folder, nor a model in {settings.home / 'models'}.",
                param="--model",
                code="model_not_found",
            )
        if ranks.first:
            rows = methods.read_rows(found, data)
            err.print(methods.describe(found, methods.choose(found, chosen, len(rows), seed), len(rows)))
        with Screen() as screen:
            trained = methods.train(
                method,
                data=data,
                folder=folder,
                model=place,
                validation=validation,
                seed=seed,
                dtype=settings.dtype,
                report=screen.report,
                **chosen,
            )
    if not ranks.first:
        return
    last = trained.checkpoints[-1]
    for note in trained.notes:
        err.print(note)
    if json:
        show_json({"folder": last.folder, "steps": trained.steps, "trained_tokens": trained.trained_tokens})
    else:
        out.print(f"{trained.steps} steps, {trained.trained_tokens} tokens: {last.folder}")


def add_job(
    store: Store,
    method: str,
    model: str,
    files: tuple[Path | None, Path | None],
    chosen: dict[str, Any],
    seed: int,
    suffix: str | None,
) -> Job:
    """Queue the run as a job."""
    owner = store.actors.get_or_create("owner").id
    training, validation = (None if path is None else add_file(store, path, owner) for path in files)
    return store.jobs.add(
        method,
        model,
        {"settings": chosen},
        actor_id=owner,
        training_file=training,
        validation_file=validation,
        suffix=suffix,
        seed=seed,
    )


def find_unfinished(
    store: Store,
    method: str,
    model: str,
    files: tuple[Path | None, Path | None],
    chosen: dict[str, Any],
    seed: int,
    suffix: str | None,
) -> Job | None:
    """A job of the very same command that has not ended: what to go on with instead of starting anew."""
    for job in store.jobs.list(limit=100).data:
        asked = (job.method, job.model, job.config.get("settings"), job.seed, job.suffix)
        if job.status in ENDED or asked != (method, model, chosen, seed, suffix):
            continue
        held = (job.training_file, job.validation_file)
        if all(same_file(store, id, path) for id, path in zip(held, files, strict=True)):
            return job
    return None


def same_file(store: Store, id: str | None, path: Path | None) -> bool:
    """Whether an uploaded file holds what is on the disk now."""
    if id is None or path is None:
        return id is None and path is None
    with store.files.open(id) as kept, path.open("rb") as given:
        return bool(kept.read() == given.read())


def add_file(store: Store, path: Path, actor_id: str) -> str:
    with path.open("rb") as stream:
        return store.files.add(stream, path.name, "fine-tune", actor_id).id
