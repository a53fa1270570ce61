"""Rows as values: edit versions, epochs, compositions, approvals, and finding an edit by what somebody typed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from catechism.errors import StoreDamaged, UnknownDate, UnknownEdit
from catechism.hashing import PREFIX
from catechism.registry.manifest import read_fact
from catechism.registry.records import Approval, Composition, EditVersion, Entry, Epoch, State
from catechism.registry.tables import approval, audit, composition, edit_version, epoch, evaluation, fact, head
from catechism.registry.times import end_of, text
from catechism.types import Fact, Risk

HEAD = "default"
SEAL = "edit.seal"  # the audit's action; an edit has at most one such entry
#: The fact of a sealed edit, whose own text is destroyed.
NOTHING = Fact("(sealed)", "(sealed)", "(sealed)", statement="(sealed)")
_LISTED = 8


def _query() -> Select[Any]:
    latest = select(evaluation.c.edit_id, func.max(evaluation.c.id).label("id")).group_by(evaluation.c.edit_id)
    newest = latest.subquery("latest")
    seal = select(audit.c.object, audit.c.body).where(audit.c.action == SEAL).subquery("seal")
    return (
        select(edit_version, fact.c.body, evaluation.c.report_sha256, evaluation.c.verdict, seal.c.body.label("sealed"))
        .join(fact, fact.c.id == edit_version.c.fact_id)
        .outerjoin(newest, newest.c.edit_id == edit_version.c.id)
        .outerjoin(evaluation, evaluation.c.id == newest.c.id)
        .outerjoin(seal, seal.c.object == edit_version.c.id)
        .order_by(edit_version.c.audit_seq)
    )


def versions(connection: Connection, *conditions: ColumnElement[bool]) -> list[EditVersion]:
    """The edit versions that meet all conditions, oldest first."""
    return [_version(row) for row in connection.execute(_query().where(*conditions))]


def _version(row: Any) -> EditVersion:
    try:
        gone = frozenset() if row.sealed is None else frozenset(json.loads(row.sealed)["gone"])
        return EditVersion(
            id=row.id, n=row.n, state=State(row.state), digest=row.digest,
            fact=NOTHING if gone else read_fact(json.loads(row.body)), gone=gone,
            kind=row.kind, method=row.method, config=json.loads(row.method_config), seed=row.seed,
            locus=json.loads(row.locus), why=row.why, base=row.base, artifact=row.artifact,
            dataset=row.dataset_sha256, risk=Risk(row.risk), author=row.author, created_at=text(row.created_at),
            supersedes=row.supersedes, report=row.report_sha256,
            verdict=None if row.verdict is None else json.loads(row.verdict),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError) as problem:
        raise StoreDamaged(f"The row of {row.id} cannot be read: {problem}. See `catechism verify`.") from None


def find(connection: Connection, ref: str) -> EditVersion:
    """The edit that an id, a prefix of one, or a prefix of a digest names.

    Raises:
        UnknownEdit: none or several; the message lists what may be meant.
    """
    wanted = ref.strip()
    exact = versions(connection, or_(edit_version.c.id == wanted, edit_version.c.digest == wanted))
    if exact:
        return exact[0]
    name, digest = edit_version.c.id, edit_version.c.digest
    bare = wanted.removeprefix(PREFIX).lower()
    starts = or_(
        name.startswith("E" + bare.removeprefix("e"), autoescape=True),
        digest.startswith(PREFIX + bare, autoescape=True),
    )
    found = versions(connection, starts) if bare else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownEdit(f"{ref!r} begins {len(found)} edits: {_list(found)}. Give more of the id.")
    known = versions(connection)
    names = {edit.id: edit for edit in known} | {edit.subject: edit for edit in known}
    close = list(dict.fromkeys(names[n].id for n in get_close_matches(wanted, names, n=3, cutoff=0.5)))
    hint = f"Close ones: {_list([names[n] for n in close])}. " if close else "" if known else "The store is empty. "
    raise UnknownEdit(f"No edit is called {ref[:100]!r}. {hint}See all with `catechism list`.")


def _list(edits: Sequence[EditVersion]) -> str:
    named = ", ".join(f"{edit.id} ({edit.subject[:40]})" for edit in edits[:_LISTED])
    return named + (" and more" if len(edits) > _LISTED else "")


def epochs(connection: Connection) -> list[Epoch]:
    """All epochs, oldest first."""
    return [_epoch(row) for row in connection.execute(select(epoch).order_by(epoch.c.number))]


def _epoch(row: Any) -> Epoch:
    return Epoch(row.number, row.cid, row.actor, row.reason, text(row.at))


def current(connection: Connection) -> Epoch:
    """The epoch that the head points to."""
    joined = select(epoch).join(head, head.c.epoch == epoch.c.number).where(head.c.name == HEAD)
    row = connection.execute(joined).first()
    if row is None:
        raise StoreDamaged("The head points to no epoch. Bring the database back from a backup.")
    return _epoch(row)


def composition_of(connection: Connection, cid: str) -> Composition:
    """A composition by its digest, or by a unique prefix of it.

    Raises:
        UnknownEdit: there is none, or several.
    """
    bare = PREFIX + cid.strip().removeprefix(PREFIX)
    rows = connection.execute(select(composition).where(composition.c.cid.startswith(bare, autoescape=True))).all()
    if len(rows) != 1:
        raise UnknownEdit(
            f"{len(rows)} compositions are called {cid[:100]!r}. `catechism log` shows the epochs with theirs."
        )
    return read_composition(rows[0])


def read_composition(row: Any) -> Composition:
    """A composition from its row, proven by its digest. Raises StoreDamaged if it is another."""
    try:
        entries = tuple(Entry(e["edit"], e["digest"], float(e["scale"])) for e in json.loads(row.entries))
    except (ValueError, TypeError, KeyError):
        entries = ()
    made = Composition(row.base, entries)
    if made.cid != row.cid:
        raise StoreDamaged(f"The composition {row.cid} holds what makes {made.cid}. See `catechism verify`.")
    return made


def as_of(connection: Connection, when: str) -> Epoch:
    """The epoch that was in effect at the end of a date, or at a time.

    Raises:
        UnknownDate: it cannot be read, or the store is younger.
    """
    moment = end_of(when)
    row = connection.execute(select(epoch).where(epoch.c.at <= moment).order_by(epoch.c.number.desc()).limit(1)).first()
    if row is None:
        first = connection.execute(select(func.min(epoch.c.at))).scalar()
        since = text(first) if isinstance(first, int) else "nothing"
        raise UnknownDate(f"{when!r} lies before the store, which begins at {since}. Give a later date.")
    return _epoch(row)


def numbered(connection: Connection, number: int) -> Epoch:
    """An epoch by its number. Raises UnknownDate if there is none."""
    row = connection.execute(select(epoch).where(epoch.c.number == number)).first()
    if row is None:
        last = current(connection).number
        raise UnknownDate(f"There is no epoch {number}. Give one from 0 to {last}; `catechism log` shows them.")
    return _epoch(row)


def approvals(connection: Connection, edit: str) -> list[Approval]:
    """Everything that was approved about an edit, oldest first."""
    rows = connection.execute(select(approval).where(approval.c.edit_id == edit).order_by(approval.c.id))
    return [
        Approval(
            row.id, row.edit_id, row.approver, tuple(json.loads(row.roles)), row.subject_digest, row.comment,
            text(row.at), text(row.expires_at),
        )
        for row in rows
    ]  # fmt: skip


def active(connection: Connection, made: Composition) -> list[EditVersion]:
    """The edits of a composition in its order."""
    ids = [entry.edit for entry in made.entries]
    known = {edit.id: edit for edit in versions(connection, edit_version.c.id.in_(ids))}
    missing = [identity for identity in ids if identity not in known]
    if missing:
        raise StoreDamaged(f"{', '.join(missing)} of {made.cid} is not in the store. See `catechism verify`.")
    return [known[identity] for identity in ids]
