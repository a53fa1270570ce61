"""Alembic's entry: runs the migrations on the connection that it is given, inside the transaction that is open."""

from __future__ import annotations

from alembic import context

from catechism.registry.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_server_default=False,
)
context.run_migrations()
