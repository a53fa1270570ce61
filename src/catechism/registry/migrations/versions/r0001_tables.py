"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DIGEST, ID, WORD = sa.String(71), sa.String(17), sa.String(16)


def text(name: str, kind: type[sa.Text] | sa.String = sa.Text, *, null: bool = False) -> sa.Column[str]:
    """A column of text."""
    return sa.Column(name, kind, nullable=null)


def whole(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    """A column of whole numbers that is always filled."""
    return sa.Column(name, kind, nullable=False)


def number(name: str = "id", *, counts: bool = True) -> sa.Column[int]:
    """A numbered primary key; `counts` lets the database choose the next number."""
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=counts)


def upgrade() -> None:
    """Make the tables."""
    _edits()
    _reviews()
    _serving()


def _edits() -> None:
    op.create_table(
        "fact",
        sa.Column("id", ID, primary_key=True),
        sa.Column("content_sha256", DIGEST, nullable=False, unique=True),
        *(text("subject_key"), text("relation_key"), text("object_key")),
        *(text("valid_from", sa.String(10), null=True), text("valid_to", sa.String(10), null=True)),
        *(text("body"), whole("recorded_at", sa.BigInteger)),
    )
    op.create_index("ix_fact_subject_key", "fact", ["subject_key"])
    op.create_table(
        "dataset", sa.Column("sha256", DIGEST, primary_key=True), whole("rows"), whole("bytes", sa.BigInteger)
    )
    op.create_table(
        "edit_version",
        sa.Column("id", ID, primary_key=True),
        *(whole("n"), text("content_sha256", DIGEST), text("state", WORD), whole("state_gen")),
        sa.Column("digest", DIGEST, nullable=False, unique=True),
        sa.Column("fact_id", ID, sa.ForeignKey("fact.id"), nullable=False),
        *(text("kind", WORD), text("method", sa.String(64)), text("method_config"), whole("seed", sa.BigInteger)),
        *(text("locus"), text("why"), text("base", sa.String(128)), text("artifact", DIGEST, null=True)),
        sa.Column("dataset_sha256", DIGEST, sa.ForeignKey("dataset.sha256"), nullable=False),
        *(text("risk", WORD), text("author"), text("supersedes", ID, null=True)),
        *(whole("created_at", sa.BigInteger), whole("audit_seq")),
        sa.UniqueConstraint("content_sha256", "n"),
    )
    op.create_index("ix_edit_version_state", "edit_version", ["state"])


def _reviews() -> None:
    op.create_table("report", sa.Column("sha256", DIGEST, primary_key=True), text("body"))
    op.create_table(
        "evaluation",
        *(number(), sa.Column("edit_id", ID, sa.ForeignKey("edit_version.id"), nullable=False)),
        sa.Column("report_sha256", DIGEST, sa.ForeignKey("report.sha256"), nullable=False),
        *(text("verdict"), whole("at", sa.BigInteger), whole("audit_seq")),
    )
    op.create_table(
        "approval",
        *(number(), sa.Column("edit_id", ID, sa.ForeignKey("edit_version.id"), nullable=False)),
        *(text("approver"), text("roles"), text("subject_digest", DIGEST), text("comment")),
        *(whole("at", sa.BigInteger), whole("expires_at", sa.BigInteger), whole("audit_seq")),
    )
    op.create_table(
        "transition",
        *(number(), sa.Column("edit_id", ID, sa.ForeignKey("edit_version.id"), nullable=False)),
        *(text("frm", WORD), text("to", WORD), text("verb", WORD), whole("at", sa.BigInteger), whole("audit_seq")),
    )
    for table in ("evaluation", "approval", "transition"):
        op.create_index(f"ix_{table}_edit_id", table, ["edit_id"])


def _serving() -> None:
    op.create_table(
        "composition",
        sa.Column("cid", DIGEST, primary_key=True),
        *(text("base", sa.String(128)), text("entries"), whole("created_at", sa.BigInteger)),
    )
    op.create_table(
        "epoch",
        number("number", counts=False),
        sa.Column("cid", DIGEST, sa.ForeignKey("composition.cid"), nullable=False),
        *(text("actor"), text("reason"), whole("at", sa.BigInteger), whole("audit_seq")),
    )
    op.create_index("ix_epoch_at", "epoch", ["at"])
    op.create_table(
        "head",
        sa.Column("name", sa.String(32), primary_key=True),
        *(sa.Column("epoch", sa.Integer, sa.ForeignKey("epoch.number"), nullable=False), whole("gen")),
    )
    op.create_table(
        "audit",
        *(number("seq", counts=False), whole("at", sa.BigInteger), text("actor"), text("action", sa.String(32))),
        *(text("object"), text("body"), text("hash", DIGEST)),
    )
    op.create_table(
        "audit_checkpoint",
        *(number("seq", counts=False), text("hash", DIGEST), whole("at", sa.BigInteger), text("envelope")),
    )


def downgrade() -> None:
    """Drop everything."""
    names = ("audit_checkpoint", "audit", "head", "epoch", "composition", "transition", "approval", "evaluation")
    for name in (*names, "report", "edit_version", "dataset", "fact"):
        op.drop_table(name)
