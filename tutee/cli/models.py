"""`tutee models`: which base models are here; fetch, import and export them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tutee.cli.output import bar, out, show_json, show_table
from tutee.cli.place import find_version, open_store, settings_of
from tutee.errors import InvalidInput
from tutee.settings import Settings

models = typer.Typer(help="Models: list, pull, import, export, other names.", no_args_is_help=True)


def fetch(spec: str, models_dir: Path) -> Path:
    """Bring a model onto the shelf with a progress bar; returns its folder."""
    from tutee.model.library import pull  # torch comes with it, which no other command should wait for

    with bar(spec) as progress:
        task = progress.tasks[0].id
        return pull(spec, models_dir, lambda what, done: progress.update(task, completed=done, note=what))


@models.command("list")
def list_(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The base models in TUTEE_HOME/models."""
    from tutee.model.library import list_models

    folder = settings_of(context).home / "models"
    names = list_models(folder)
    if json:
        show_json([{"name": name, "folder": str(folder / name)} for name in names])
    else:
        show_table(
            "Base models", ["name", "folder"], [(name, folder / name) for name in names], "run `tutee models pull`"
        )


@models.command("pull")
def pull_(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A model's name or a hub id.")] = Settings().model
) -> None:
    """Fetch a base model by name or hub id (owner/name); by default the one that `serve` uses, a download of 93 MB."""
    out.print(str(fetch(name, settings_of(context).home / "models")))


@models.command("import")
def import_(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A Hugging Face folder or a GGUF file.", exists=True)],
) -> None:
    """Take a model from this disk: a Hugging Face folder (safetensors) or a GGUF file."""
    out.print(str(fetch(str(path.resolve()), settings_of(context).home / "models")))


@models.command("alias")
def alias(
    context: typer.Context,
    pattern: Annotated[
        str | None, typer.Argument(help="The other name, or a pattern: gpt-4.1-nano, 'gpt-4*'. None: list them.")
    ] = None,
    target: Annotated[
        str | None, typer.Argument(help="Who answers: a version's name, id or number, or `chat` (the live one).")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the alias.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let a model answer to other names, so that scripts which name another server's models run as they are."""
    if remove != (pattern is not None and target is None):
        raise InvalidInput("Say `alias PATTERN TARGET`, `alias PATTERN --remove`, or `alias` alone to list them.")
    with open_store(settings_of(context)) as store:
        owner = store.actors.get_or_create("owner").id
        if pattern is None:
            rows = store.model_aliases.list()
            if json:
                show_json([{"pattern": row.pattern, "target": row.target} for row in rows])
            else:
                show_table("Aliases", ["name", "answered by"], [(row.pattern, row.target) for row in rows])
        elif target is None:
            store.model_aliases.remove(pattern, owner)
            out.print(f"{pattern} means nothing now")
        else:
            store.model_aliases.set(pattern, target, owner)
            out.print(f"{pattern} → {target}")


@models.command("export")
def export(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="A version's id, number or name, or `chat` for the live one.")],
    folder: Annotated[Path, typer.Argument(help="Where to write; must not exist.")],
) -> None:
    """Write a version as one merged Hugging Face folder that transformers, vLLM and llama.cpp open."""
    from tutee.model.lora import Lora
    from tutee.model.pretrained import export_merged, load_pretrained

    settings = settings_of(context)
    with open_store(settings) as store:
        row = find_version(store, version)
        root = row if row.kind != "adapter" or row.parent_id is None else store.versions.get(row.parent_id)
    base = load_pretrained(settings.home / root.folder, "float32", name=root.name)
    adapter = settings.home / row.folder
    lora = Lora.load(adapter, base.config, base.weights_sha256) if row.kind == "adapter" else None
    export_merged(base, lora, folder)
    out.print(f"{row.name} → {folder}")
