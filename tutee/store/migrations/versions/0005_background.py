"""Uploads in parts, batches of requests, webhooks."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def column(kind: Any, name: str, *, to: str | None = None, cascade: bool = False, **options: Any) -> sa.Column[Any]:
    """A column that is NOT NULL unless it says otherwise; `to` names the column that it refers to."""
    key = [] if to is None else [sa.ForeignKey(to, ondelete="CASCADE" if cascade else None)]
    options.setdefault("nullable", False)
    return sa.Column(name, kind, *key, **options)


word = partial(column, sa.String())
text = partial(column, sa.Text())
whole = partial(column, sa.BigInteger().with_variant(sa.Integer, "sqlite"))
real = partial(column, sa.Double())
flag = partial(column, sa.Boolean())
json = partial(column, sa.JSON())
in_project = partial(word, "project_id", server_default="proj_default")


# fmt: off
def upgrade() -> None:
    """Parents before children."""
    op.create_table("upload",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), in_project(), word("status"),
        text("filename"), word("purpose"), text("mime_type"), whole("bytes"), whole("lifetime", nullable=True),
        word("file_id"), real("created_at"), real("expires_at", index=True))
    op.create_table("upload_part",
        word("id", primary_key=True), word("upload_id", to="upload.id", index=True), whole("bytes"), word("sha256"),
        real("created_at"))
    op.create_table("batch",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), in_project(), word("endpoint"),
        word("input_file_id"), word("completion_window"), word("status"), json("errors"), text("model", nullable=True),
        json("metadata"), whole("lifetime", nullable=True), whole("total"), whole("completed"), whole("failed"),
        whole("input_tokens"), whole("output_tokens"), word("output_file_id", nullable=True),
        word("error_file_id", nullable=True), json("moments"), real("created_at"), real("expires_at"))
    op.create_index("batch_status", "batch", ["status", "created_at"])
    op.create_table("batch_line",
        word("batch_id", to="batch.id", cascade=True, primary_key=True),
        whole("position", primary_key=True, autoincrement=False), flag("good"), json("line"))
    op.create_table("webhook_endpoint",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), in_project(), text("name"),
        text("url"), json("event_types"), word("secret"), word("old_secret", nullable=True),
        real("old_secret_until", nullable=True), real("created_at"), real("updated_at"))
    op.create_table("webhook_delivery",
        word("id", primary_key=True), word("endpoint_id", to="webhook_endpoint.id", cascade=True, index=True),
        word("event_id"), word("type"), json("data"), real("created_at"), whole("attempts"), real("next_at"),
        real("settled_at", nullable=True), word("status"), text("last_result", nullable=True))
    op.create_index("webhook_delivery_due", "webhook_delivery", ["settled_at", "next_at"])
# fmt: on
