"""Other names for models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """There are none yet."""
    op.create_table(
        "model_alias",
        sa.Column("pattern", sa.Text(), primary_key=True),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.String(), sa.ForeignKey("actor.id")),
        sa.Column("created_at", sa.Double(), nullable=False),
    )
