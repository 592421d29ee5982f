"""Stored completions that feedback can be given on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Those that are there already have no samples: they take no feedback."""
    op.add_column("completion", sa.Column("samples", sa.JSON(), nullable=True))
    op.add_column("completion", sa.Column("turns_sha", sa.String(), nullable=True))
    op.add_column("completion", sa.Column("message_ids", sa.JSON(), nullable=True))
    op.create_index("ix_completion_turns_sha", "completion", ["turns_sha"])
