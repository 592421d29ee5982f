"""OpenAI's responses and conversations, with their items."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def column(kind: Any, name: str, *, to: str | None = None, cascade: bool = False, **options: Any) -> sa.Column[Any]:
    """A column that is NOT NULL unless it says otherwise; `to` names the column that it refers to."""
    key = [] if to is None else [sa.ForeignKey(to, ondelete="CASCADE" if cascade else None)]
    options.setdefault("nullable", False)
    return sa.Column(name, kind, *key, **options)


word = partial(column, sa.String())
text = partial(column, sa.Text())
whole = partial(column, sa.BigInteger().with_variant(sa.Integer, "sqlite"))
real = partial(column, sa.Double())
json = partial(column, sa.JSON())
in_project = partial(word, "project_id", server_default="proj_default")


# fmt: off
def upgrade() -> None:
    """Parents before children."""
    op.create_table("response",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), in_project(),
        word("previous_id", nullable=True), word("conversation_id", nullable=True), text("model"),
        word("status", index=True), json("body"), real("created_at"))
    op.create_table("response_item",
        word("response_id", to="response.id", cascade=True, primary_key=True),
        whole("place", primary_key=True, autoincrement=False), word("id", index=True), word("kind"), json("item"))
    op.create_table("openai_conversation",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), in_project(), json("metadata"),
        real("created_at"))
    op.create_table("openai_conversation_item",
        word("conversation_id", to="openai_conversation.id", cascade=True, primary_key=True),
        whole("place", primary_key=True, autoincrement=False), word("id", index=True), json("item"))
# fmt: on
