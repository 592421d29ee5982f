"""`tutee serve` and `tutee worker`: the two processes."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from tutee.cli.models import fetch
from tutee.cli.place import settings_of


def serve(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; anything but loopback needs TUTEE_ADMIN_KEY.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    model: Annotated[str | None, typer.Option(help="Base model: a name in TUTEE_HOME/models or a folder.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 (fast) or float32 (exact).")] = None,
    precision: Annotated[
        str | None, typer.Option(help="int8 or int4: weights as integers for answers; faster, a little worse.")
    ] = None,
    embedding_model: Annotated[
        str | None, typer.Option(help="Folder of a model for /v1/embeddings; needs tutee[embeddings].")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Let an OpenAI-compatible server answer: its base URL, http://host:port/v1.")
    ] = None,
    upstream_model: Annotated[str | None, typer.Option(help="What the upstream calls the model.")] = None,
    upstream_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the upstream's key.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads for the model; 0 means one a core.")] = None,
) -> None:
    """Serve the chat page and the OpenAI-compatible API, and start the worker that trains."""
    from tutee.serve import run

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "model": model,
        "dtype": dtype,
        "precision": precision,
        "threads": threads,
        "embedding_model": embedding_model,
        "upstream": upstream,
        "upstream_model": upstream_model,
        "upstream_key_env": upstream_key_env,
    }
    settings = dataclasses.replace(settings_of(context), **{k: v for k, v in given.items() if v is not None})
    if not settings.upstream and not settings.base_folder.is_dir():
        fetch(settings.model, settings.home / "models")
    run.serve(settings)


def worker(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Stop when no job is waiting.")] = False,
) -> None:
    """Train the waiting jobs (`tutee serve` starts one by itself)."""
    from tutee.worker import run_worker

    run_worker(settings_of(context), once=once)
