"""History can only be added to: triggers refuse to change or delete it."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("audit", "audit_checkpoint", "transition", "evaluation", "approval", "report", "composition", "epoch")
VERBS = ("update", "delete")


def upgrade() -> None:
    """Make the triggers."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if not is_sqlite:
        op.execute(
            "CREATE FUNCTION catechism_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% can only be added to', TG_TABLE_NAME; END $$"
        )
    for table in TABLES:
        for verb in VERBS:
            head = f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table}"
            if is_sqlite:
                op.execute(f"{head} BEGIN SELECT RAISE(ABORT, '{table} can only be added to'); END")
            else:
                op.execute(f"{head} FOR EACH ROW EXECUTE FUNCTION catechism_refuse()")


def downgrade() -> None:
    """Drop the triggers."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in TABLES:
        for verb in VERBS:
            op.execute(f"DROP TRIGGER {table}_no_{verb}" + ("" if is_sqlite else f" ON {table}"))
    if not is_sqlite:
        op.execute("DROP FUNCTION catechism_refuse()")
