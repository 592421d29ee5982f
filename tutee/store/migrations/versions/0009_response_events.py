"""When a response ended, and the events of those that run in the background."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Nobody wrote down when earlier responses ended: they count as ended when they began."""
    op.add_column("response", sa.Column("ended_at", sa.Double(), nullable=True))
    op.execute("UPDATE response SET ended_at = created_at WHERE status NOT IN ('queued', 'in_progress')")
    op.create_index("ix_response_ended_at", "response", ["ended_at"])
    whole = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "response_events",
        sa.Column("response_id", sa.String(), sa.ForeignKey("response.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("first", whole, primary_key=True, autoincrement=False),
        sa.Column("count", whole, nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
    )
