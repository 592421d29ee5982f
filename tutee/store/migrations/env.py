"""How Alembic runs a migration here: on the connection, and in the transaction, that `tutee.store.migrate` opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from tutee.store.schema import Base

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
