"""Evals, their runs, the graded answers, and which evals the gate asks."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


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
    op.create_table("eval",
        word("id", primary_key=True), word("actor_id", to="actor.id", index=True), in_project(), text("name"),
        json("data_source_config"), json("testing_criteria"), json("metadata"), real("created_at"), real("updated_at"))
    op.create_table("eval_run",
        word("id", primary_key=True), word("eval_id", to="eval.id", cascade=True),
        word("actor_id", to="actor.id", index=True), in_project(), word("runner"), text("name"), word("status"),
        text("model", nullable=True), word("version_id", to="model_version.id", nullable=True), json("data_source"),
        word("data_sha"), json("metadata"), flag("cancel_requested"), json("error", nullable=True), whole("passed"),
        whole("failed"), whole("errored"), json("criteria"), json("usage"), real("created_at"),
        real("finished_at", nullable=True))
    op.create_index("eval_run_open", "eval_run", ["runner", "status", "created_at"])
    op.create_index("eval_run_compared", "eval_run", ["eval_id", "data_sha", "version_id"])
    op.create_table("eval_item",
        word("run_id", to="eval_run.id", cascade=True, primary_key=True),
        whole("position", primary_key=True, autoincrement=False), word("id", unique=True), word("status"),
        json("item"), json("sample"), json("results"), real("created_at"))
    op.create_table("gate_eval",
        word("eval_id", to="eval.id", cascade=True, primary_key=True), json("data_source"), word("data_sha"),
        word("role"), real("margin"), word("actor_id", to="actor.id"), real("created_at"))
# fmt: on
