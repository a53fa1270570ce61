"""The tables as queries see them. How they come to be is in ``migrations/``; a test holds the two together.

Times are microseconds in UTC, JSON is kept as canonical text, digests are ``sha256:…``. ``audit_seq`` is the entry of
the audit that speaks of a row. Only state and generation of an edit version, and the head, are ever updated.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

fact = Table(
    "fact", metadata,
    Column("id", String(17), primary_key=True),
    Column("content_sha256", String(71), nullable=False, unique=True),
    Column("subject_key", Text, nullable=False, index=True),
    Column("relation_key", Text, nullable=False),
    Column("object_key", Text, nullable=False),
    Column("valid_from", String(10)),
    Column("valid_to", String(10)),
    Column("body", Text, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
)  # fmt: skip

dataset = Table(
    "dataset", metadata,
    Column("sha256", String(71), primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)  # fmt: skip

edit_version = Table(
    "edit_version", metadata,
    Column("id", String(17), primary_key=True),
    Column("n", Integer, nullable=False),
    Column("content_sha256", String(71), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("state_gen", Integer, nullable=False),
    Column("digest", String(71), nullable=False, unique=True),
    Column("fact_id", String(17), ForeignKey("fact.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("method", String(64), nullable=False),
    Column("method_config", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("locus", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("base", String(128), nullable=False),
    Column("artifact", String(71)),
    Column("dataset_sha256", String(71), ForeignKey("dataset.sha256"), nullable=False),
    Column("risk", String(16), nullable=False),
    Column("author", Text, nullable=False),
    Column("supersedes", String(17)),
    Column("created_at", BigInteger, nullable=False),
    Column("audit_seq", Integer, nullable=False),
    UniqueConstraint("content_sha256", "n"),
)  # fmt: skip

report = Table(
    "report", metadata,
    Column("sha256", String(71), primary_key=True),
    Column("body", Text, nullable=False),
)  # fmt: skip

evaluation = Table(
    "evaluation", metadata,
    Column("id", Integer, primary_key=True),
    Column("edit_id", String(17), ForeignKey("edit_version.id"), nullable=False, index=True),
    Column("report_sha256", String(71), ForeignKey("report.sha256"), nullable=False),
    Column("verdict", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("audit_seq", Integer, nullable=False),
)  # fmt: skip

approval = Table(
    "approval", metadata,
    Column("id", Integer, primary_key=True),
    Column("edit_id", String(17), ForeignKey("edit_version.id"), nullable=False, index=True),
    Column("approver", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("subject_digest", String(71), nullable=False),
    Column("comment", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("audit_seq", Integer, nullable=False),
)  # fmt: skip

transition = Table(
    "transition", metadata,
    Column("id", Integer, primary_key=True),
    Column("edit_id", String(17), ForeignKey("edit_version.id"), nullable=False, index=True),
    Column("frm", String(16), nullable=False),
    Column("to", String(16), nullable=False),
    Column("verb", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("audit_seq", Integer, nullable=False),
)  # fmt: skip

composition = Table(
    "composition", metadata,
    Column("cid", String(71), primary_key=True),
    Column("base", String(128), nullable=False),
    Column("entries", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)  # fmt: skip

epoch = Table(
    "epoch", metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("cid", String(71), ForeignKey("composition.cid"), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Column("audit_seq", Integer, nullable=False),
)  # fmt: skip

head = Table(
    "head", metadata,
    Column("name", String(32), primary_key=True),
    Column("epoch", Integer, ForeignKey("epoch.number"), nullable=False),
    Column("gen", Integer, nullable=False),
)  # fmt: skip

audit = Table(
    "audit", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("object", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("hash", String(71), nullable=False),
)  # fmt: skip

audit_checkpoint = Table(
    "audit_checkpoint", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(71), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("envelope", Text, nullable=False),
)  # fmt: skip
