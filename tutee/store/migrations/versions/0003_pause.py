"""Jobs that can be paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Nobody has asked for a pause yet."""
    op.add_column("job", sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.false()))
