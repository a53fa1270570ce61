"""The audit: a chain in which each entry's hash covers the hash before it, and signed checkpoints of its length.

``hash = sha256(01 || previous hash || canonical JSON of the entry)``. The chain alone would not show that its end was
cut off or that all of it was written anew, so the last hash is signed now and then and kept in a file too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, insert, select

from catechism.hashing import canonical_json, digest_bytes
from catechism.registry.failpoints import failpoint
from catechism.registry.records import AuditEntry, Problem
from catechism.registry.signing import CHECKPOINT_TYPE, Keys, check
from catechism.registry.store import read_plain, write_synced
from catechism.registry.tables import audit, audit_checkpoint
from catechism.registry.times import text
from catechism.types import JSON

CHECKPOINT_EVERY = 100
SCHEMA = "catechism.checkpoint/1"
START = "sha256:" + "0" * 64
_RESTORE = "Bring the database back from a backup, or keep it as evidence and start a new store."


def entry_hash(previous: str, entry: Mapping[str, JSON]) -> str:
    """The hash of an entry that follows the entry with the hash `previous`."""
    return digest_bytes(b"\x01", bytes.fromhex(previous.removeprefix("sha256:")), canonical_json(dict(entry)))


@dataclass(slots=True)
class Writer:
    """One writing transaction: what it does stands in the audit before it is done.

    Attributes:
        connection: the transaction.
        at: its time, never before that of the last entry.
        actor: on whose behalf.
    """

    connection: Connection
    at: int
    actor: str
    seq: int = field(init=False)
    last: str = field(init=False)

    def __post_init__(self) -> None:
        row = self.connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(1)).first()
        self.seq, self.last = (row.seq, row.hash) if row else (0, START)
        self.at = max(self.at, row.at if row else 0)

    def record(self, action: str, object: str, body: Mapping[str, JSON]) -> int:
        """Add an entry to the audit and give its number."""
        seq = self.seq + 1
        entry: dict[str, JSON] = {
            "seq": seq, "at": text(self.at), "actor": self.actor, "action": action, "object": object,
            "body": dict(body),
        }  # fmt: skip
        digest = entry_hash(self.last, entry)
        values = {**entry, "at": self.at, "body": canonical_json(dict(body)).decode(), "hash": digest}
        self.connection.execute(insert(audit).values(**values))
        self.seq, self.last = seq, digest
        failpoint("in_transaction")
        return seq


def entry_of(row: Any) -> AuditEntry:
    """An entry from its row."""
    return AuditEntry(row.seq, text(row.at), row.actor, row.action, row.object, json.loads(row.body), row.hash)


def check_chain(rows: Iterable[Any], *, seq: int = 0, previous: str = START) -> tuple[list[Problem], str]:
    """What is wrong with the entries after `seq`, and the hash of the last one."""
    problems: list[Problem] = []
    for row in rows:
        name = f"audit entry {row.seq}"
        if row.seq != seq + 1:
            missing = f"entries {seq + 1} to {row.seq - 1} are missing" if row.seq > seq + 1 else "it is out of order"
            problems.append(Problem(name, f"{missing} before it", _RESTORE))
        try:
            entry = entry_of(row).json()
            entry.pop("digest")
            if row.hash != entry_hash(previous, entry):
                problems.append(Problem(name, "its hash is not the one of its content and the entry before", _RESTORE))
        except (ValueError, TypeError, OverflowError):
            problems.append(Problem(name, "it cannot be read", _RESTORE))
        seq, previous = row.seq, row.hash
    return problems, previous


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Signed statements that the audit had so many entries and ended in such a hash.

    Attributes:
        file: where the latest one is kept beside the database.
        keys: who signs and who is believed.
    """

    file: Path
    keys: Keys

    def in_file(self) -> tuple[int, str, str | None] | None:
        """Length and hash that the file states, and what is wrong with it; None where there is no file."""
        raw = read_plain(self.file)
        return None if raw is None else self._read(raw)

    def _read(self, envelope: bytes) -> tuple[int, str, str | None]:
        payload, problem = check(CHECKPOINT_TYPE, envelope, self.keys.own)
        try:
            stated = json.loads(payload)
            return int(stated["seq"]), str(stated["hash"]), problem
        except (ValueError, TypeError, KeyError):
            return 0, START, problem or "it cannot be read"

    def check_tail(self, connection: Connection, stated: tuple[int, str, str | None] | None) -> list[Problem]:
        """What is wrong with the audit from its last checkpoint on.

        Args:
            connection: opened after `stated` was read, so that the database cannot be older than the file.
            stated: what `in_file` said.
        """
        row = connection.execute(select(audit_checkpoint).order_by(audit_checkpoint.c.seq.desc()).limit(1)).first()
        known = [("checkpoint file", *stated)] if stated else []
        if row is not None:
            known.append((f"checkpoint {row.seq}", *self._read(row.envelope.encode())))
        problems = _against(connection, known)
        seq, previous = (row.seq, row.hash) if row is not None else (0, START)
        rows = connection.execute(select(audit).where(audit.c.seq > seq).order_by(audit.c.seq))
        return problems + check_chain(rows, seq=seq, previous=previous)[0]

    def check_all(self, connection: Connection, stated: tuple[int, str, str | None] | None) -> list[Problem]:
        """What is wrong with the audit and with every checkpoint."""
        known = [("checkpoint file", *stated)] if stated else []
        for row in connection.execute(select(audit_checkpoint).order_by(audit_checkpoint.c.seq)):
            seq, digest, problem = self._read(row.envelope.encode())
            if (seq, digest) != (row.seq, row.hash):
                problem = problem or "its columns are not what it states"
            known.append((f"checkpoint {row.seq}", seq, digest, problem))
        rows = connection.execute(select(audit).order_by(audit.c.seq))
        return check_chain(rows)[0] + _against(connection, known)

    def write(self, connection: Connection, at: int) -> bool:
        """Sign the audit as it is now, unless it does not hold or nothing was added. Says whether it was signed."""
        stated = self.in_file()
        last = connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(1)).first()
        latest = select(audit_checkpoint.c.seq).order_by(audit_checkpoint.c.seq.desc()).limit(1)
        if last is None or connection.execute(latest).scalar() == last.seq or self.check_tail(connection, stated):
            return False
        body = {"schema": SCHEMA, "seq": last.seq, "hash": last.hash, "at": text(at)}
        envelope = self.keys.sign(CHECKPOINT_TYPE, canonical_json(body)).decode()
        row = {"seq": last.seq, "hash": last.hash, "at": at, "envelope": envelope}
        connection.execute(insert(audit_checkpoint).values(**row))
        return True

    def write_file(self, connection: Connection) -> None:
        """Copy the latest checkpoint from the database to the file, unless the file is as new."""
        row = connection.execute(select(audit_checkpoint).order_by(audit_checkpoint.c.seq.desc()).limit(1)).first()
        stated = self.in_file()
        if row is None or (stated is not None and stated[2] is None and stated[0] >= row.seq):
            return
        beside = self.file.with_name(f".{self.file.name}.{uuid4().hex}")
        try:
            write_synced(beside, row.envelope.encode())
            beside.replace(self.file)
        finally:
            with suppress(FileNotFoundError):
                beside.unlink()


def _against(connection: Connection, known: Sequence[tuple[str, int, str, str | None]]) -> list[Problem]:
    problems: list[Problem] = []
    for name, seq, digest, problem in known:
        if problem is not None:
            problems.append(Problem(name, problem, _RESTORE))
            continue
        found = connection.execute(select(audit.c.hash).where(audit.c.seq == seq)).scalar()
        if found is None:
            problems.append(Problem(f"audit entry {seq}", f"it was cut off: {name} was signed with it there", _RESTORE))
        elif found != digest:
            problems.append(
                Problem(f"audit entry {seq}", f"its hash is not the one that {name} was signed for", _RESTORE)
            )
    return problems
