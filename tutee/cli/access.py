"""`tutee keys` and `tutee projects`: who may use a server that others can reach, for what, and how much."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from tutee.cli.output import out, show_json, show_table, styled, when
from tutee.cli.place import open_store, settings_of
from tutee.store.projects import SERVICE
from tutee.store.schema import DEFAULT_PROJECT

keys = typer.Typer(help="API keys, for servers that others can reach.", no_args_is_help=True)
projects = typer.Typer(help="Projects: what is made in one does not exist in another.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InProject = Annotated[str, typer.Option("--project", help="Id of the project.")]
Limit = Annotated[int | None, typer.Option(min=1, help="No limit when it is left out.")]
DAY = 86_400.0


@keys.command("create")
def create_key(
    context: typer.Context,
    person: Annotated[
        str, typer.Argument(help="Whose key it is. Keys of nobody in particular share what they make.")
    ] = SERVICE,
    name: Annotated[str, typer.Option(help="What it is for.")] = "key",
    project: InProject = DEFAULT_PROJECT,
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do (all, all.read, model.request, files.read …); repeatable.")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires; never when left out.")] = None,
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
) -> None:
    """Make a key; it is shown once and stored as a hash."""
    with open_store(settings_of(context)) as store:
        kind = "service" if person == SERVICE else "user"
        actor = store.actors.get_or_create(person, kind, project_id=store.projects.get(project).id)
        text, row = store.keys.add(
            actor.id,
            name,
            scopes=scope or (),
            expires_at=None if days is None else time.time() + days * DAY,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
    out.print(styled("{}\n[bold]{}[/]", row.id, text))


@keys.command("list")
def list_keys(context: typer.Context, json: Json = False) -> None:
    """All keys, without their secrets."""
    with open_store(settings_of(context)) as store:
        people = {actor.id: actor.handle for actor in store.actors.list()}
        rows = [key for actor in people for key in store.keys.list(actor)]
    if json:
        fields = (
            "id", "project_id", "actor_id", "name", "prefix", "scopes", "requests_per_minute", "tokens_per_minute",
            "created_at", "last_used_at", "expires_at", "revoked_at",
        )  # fmt: skip
        show_json([{field: getattr(row, field) for field in fields} for row in rows])
        return
    cells = [
        (
            *(row.id, row.project_id, people[row.actor_id], row.name, row.prefix, " ".join(row.scopes)),
            *(when(moment) for moment in (row.last_used_at, row.expires_at, row.revoked_at)),
        )
        for row in rows
    ]
    columns = ["id", "project", "person", "name", "begins", "scopes", "last used", "expires", "revoked"]
    show_table("Keys", columns, cells)


@keys.command("revoke")
def revoke_key(context: typer.Context, key_id: str) -> None:
    """Make a key useless at once."""
    with open_store(settings_of(context)) as store:
        store.keys.revoke(key_id)
    out.print(f"{key_id} is revoked")


@projects.command("create")
def create_project(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What people call it.")],
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
) -> None:
    """Make a project, with limits for all its keys together."""
    with open_store(settings_of(context)) as store:
        row = store.projects.add(name)
        limits: dict[str, Any] = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
        }
        store.projects.set_limits(row.id, **limits)
    out.print(row.id)


@projects.command("list")
def list_projects(context: typer.Context, json: Json = False) -> None:
    """All projects, newest first."""
    with open_store(settings_of(context)) as store:
        rows = store.projects.list(limit=1000, include_archived=True).data
    fields = ("id", "name", "requests_per_minute", "tokens_per_minute", "created_at", "archived_at")
    if json:
        show_json([{field: getattr(row, field) for field in fields} for row in rows])
        return
    cells = [
        (
            *(row.id, row.name, row.requests_per_minute or "", row.tokens_per_minute or ""),
            *(when(row.created_at), when(row.archived_at)),
        )
        for row in rows
    ]
    columns = ["id", "name", "requests a minute", "tokens a minute", "made", "archived"]
    show_table("Projects", columns, cells)
