"""The text of a report may be destroyed, and nothing else of it: an edit that is sealed keeps hashes only."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_CHANGES_MORE = "NEW.body <> '' OR NEW.sha256 <> OLD.sha256"


def upgrade() -> None:
    """Let an update through that leaves an empty text."""
    _trigger(f"WHEN ({_CHANGES_MORE}) ")


def downgrade() -> None:
    """Refuse every update again. What was destroyed stays so."""
    _trigger("")


def _trigger(condition: str) -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute("DROP TRIGGER report_no_update" + ("" if is_sqlite else " ON report"))
    head = "CREATE TRIGGER report_no_update BEFORE UPDATE ON report"
    if is_sqlite:
        op.execute(f"{head} {condition}BEGIN SELECT RAISE(ABORT, 'report can only be added to'); END")
    else:
        op.execute(f"{head} FOR EACH ROW {condition}EXECUTE FUNCTION catechism_refuse()")
