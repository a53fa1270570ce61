"""Sealing: destroying what would allow the way back from a deletion. Only hashes stay, and the audit stays whole.

The audit speaks of it first, in the transaction that empties the rows; the files go right after. A process that is
killed in between has decided: the next one that opens the store takes the files away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Connection, select, update

from catechism.errors import Sealed, UsageError, WrongState
from catechism.registry import read
from catechism.registry.audit import Writer
from catechism.registry.policy import ENDED
from catechism.registry.records import EditVersion, Seal, State
from catechism.registry.room import Room
from catechism.registry.store import CATECHISM, DELTA, MANIFEST, TRAINING, files_of, read_plain
from catechism.registry.tables import audit, edit_version, evaluation, fact, report
from catechism.registry.times import text
from catechism.types import JSON

_GONE = frozenset({CATECHISM, TRAINING, DELTA})


def seal(room: Room, refs: Sequence[str], by: str, reason: str) -> list[Seal]:
    """Destroy delta, training rows, catechism, fact and reports of edits that have ended.

    Of a deletion that is in effect the delta stays, since it is what keeps the model from saying it. Edits that hold
    the same fact have to be sealed together. Sealing again gives what was done the first time.

    Raises:
        WrongState: an edit is in effect and no deletion, or has not ended.
        UsageError: another edit that is not named holds the same fact.
    """
    if not reason.strip():
        raise UsageError("Sealing needs a reason. Say in a few words why.")
    with room.database.read() as connection:
        edits = list({(e := read.find(connection, ref)).id: e for ref in refs}.values())
    with room.writing(by) as writer:
        whole = [edit for one in edits if not (edit := read.find(writer.connection, one.id)).sealed]
        for edit in whole:  # all are read before the first is emptied: they may share a fact
            _check(writer.connection, edit, {other.id for other in edits})
        for edit in whole:
            _empty(room, writer, edit, reason)
    finish(room)
    room.database.forget_pages()
    wanted = {edit.id for edit in edits}
    with room.database.read() as connection:
        return [seal for seal in seals(connection) if seal.edit in wanted]


def finish(room: Room) -> None:
    """Take away the files of everything that the audit calls sealed, as far as they are still there."""
    with room.database.read() as connection:
        rows = connection.execute(
            select(edit_version.c.digest, audit.c.body)
            .join(audit, audit.c.object == edit_version.c.id)
            .where(audit.c.action == read.SEAL)
        ).all()
    for digest, body in rows:
        room.store.destroy(digest, frozenset(json.loads(body)["gone"]) & _GONE)


def seals(connection: Connection) -> list[Seal]:
    """Everything that was sealed, oldest first."""
    rows = connection.execute(select(audit).where(audit.c.action == read.SEAL).order_by(audit.c.seq))
    return [_seal(row) for row in rows]


def refuse(edit: EditVersion, what: str) -> Sealed:
    """The error for something that a sealed edit cannot do any more."""
    return Sealed(
        f"{edit.id} is sealed and cannot be {what}: what that takes was destroyed on purpose, only hashes are left. "
        f"`catechism show {edit.id}` says what is known; to teach something anew, use `catechism learn`."
    )


def _check(connection: Connection, edit: EditVersion, named: set[str]) -> None:
    is_deletion = edit.kind == "delete" and edit.state is State.PRODUCTION
    if edit.state not in ENDED and not is_deletion:
        raise WrongState(
            f"{edit.id} is {edit.state} and cannot be sealed, only an edit that has ended or a deletion that is in "
            "effect. Take it back first: `catechism rollback`, or `catechism reject`."
        )
    fact_id = select(edit_version.c.fact_id).where(edit_version.c.id == edit.id).scalar_subquery()
    same = read.versions(connection, edit_version.c.fact_id == fact_id)
    others = [other.id for other in same if other.id not in named and not other.sealed]
    if others:
        raise UsageError(
            f"{', '.join(others)} holds the same fact as {edit.id}. They can only be sealed together: name all of them."
        )


def _empty(room: Room, writer: Writer, edit: EditVersion, reason: str) -> None:
    """Write into the audit what goes, with its hashes, and empty the rows that hold text."""
    connection = writer.connection
    files = files_of(read_plain(room.store.path(edit.digest) / MANIFEST) or b"")
    digests = {name: found[0] for name, found in files.items() if found is not None}
    stays = frozenset({DELTA}) if edit.state is State.PRODUCTION else frozenset[str]()
    row = connection.execute(
        select(fact.c.id, fact.c.content_sha256)
        .join(edit_version, edit_version.c.fact_id == fact.c.id)
        .where(edit_version.c.id == edit.id)
    ).one()
    reports = sorted(
        set(connection.execute(select(evaluation.c.report_sha256).where(evaluation.c.edit_id == edit.id)).scalars())
    )
    body: dict[str, JSON] = {
        "reason": reason,
        "gone": {name: digest for name, digest in digests.items() if name in _GONE - stays},
        "kept": {name: digest for name, digest in digests.items() if name not in _GONE - stays},
        "reports": [*reports],
        "fact": row.content_sha256,
    }
    writer.record(read.SEAL, edit.id, body)
    empty = {"body": "", "subject_key": "", "relation_key": "", "object_key": ""}
    connection.execute(update(fact).where(fact.c.id == row.id).values(**empty))
    connection.execute(update(report).where(report.c.sha256.in_(reports)).values(body=""))


def _seal(row: Any) -> Seal:
    body = cast("dict[str, Any]", json.loads(row.body))
    return Seal(row.object, row.actor, text(row.at), body["gone"], body["kept"], tuple(body["reports"]), body["fact"])
