"""Projects: walls between what different keys make; keys with scopes, limits and an end; files that expire."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

OWNED = ("actor", "conversation", "feedback", "job", "model_version", "file", "completion", "api_key")


def upgrade() -> None:
    """Everything that exists is in the default project; every key may do everything, as before."""
    whole = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    project = op.create_table(
        "project",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("requests_per_minute", whole),
        sa.Column("tokens_per_minute", whole),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("archived_at", sa.Double()),
    )
    op.bulk_insert(project, [{"id": "proj_default", "name": "Default", "created_at": time.time()}])
    for table in OWNED:
        add(table, "project_id", sa.String(), nullable=False, server_default="proj_default")
    add("api_key", "scopes", sa.JSON(), nullable=False, server_default='["all"]')
    for name, kind in {
        "requests_per_minute": whole,
        "tokens_per_minute": whole,
        "expires_at": sa.Double(),
        "last_used_at": sa.Double(),
    }.items():
        add("api_key", name, kind)
    add("file", "expires_at", sa.Double())
    op.create_index("ix_file_expires_at", "file", ["expires_at"])


def add(table: str, name: str, kind: Any, **options: Any) -> None:
    """A new column."""
    op.add_column(table, sa.Column(name, kind, **options))
