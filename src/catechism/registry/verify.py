"""Deriving everything again: hashes, signatures, chains, and that the tables tell one story."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, func, select

from catechism.errors import CatechismError
from catechism.hashing import digest_bytes, digest_json
from catechism.registry import read
from catechism.registry.destruction import seals
from catechism.registry.manifest import fact_columns, read_fact
from catechism.registry.policy import TRANSITIONS
from catechism.registry.prove import content_problem, sealed_problems
from catechism.registry.records import Composition, Problem, State, Verification
from catechism.registry.room import Room
from catechism.registry.tables import (
    approval,
    audit,
    audit_checkpoint,
    composition,
    dataset,
    edit_version,
    epoch,
    evaluation,
    fact,
    report,
    transition,
)

_BACKUP = "Bring the database back from a backup."
_ARTIFACT = "Import the edit again from an export (`catechism import FILE`) or bring the store back from a backup."


def verify(room: Room) -> Verification:
    """Every problem of a store, each with its object and its fix."""
    stated = room.checkpoints.in_file()
    checked: Counter[str] = Counter()
    problems: list[Problem] = []
    with room.database.read() as connection:
        problems += room.checkpoints.check_all(connection, stated)
        for name, table in (("audit entries", audit), ("checkpoints", audit_checkpoint)):
            checked[name] = len(connection.execute(select(table.c.seq)).all())
        for kind, check in _CHECKS.items():
            for found in check(connection):
                checked[kind] += 1
                if found is not None:
                    problems.append(found)
    for found in _artifacts(room):
        checked["artifacts"] += 1
        problems += found
    problems += _keys(room)
    checked["keys"] = len(list(room.keys.ids()))
    with room.database.read() as connection:
        return Verification(dict(checked), tuple(problems), tuple(seals(connection)))


def _artifacts(room: Room) -> Iterator[list[Problem]]:
    """Each edit version with its folder, signature, delta and row."""
    with room.database.read() as connection:
        rows = connection.execute(select(edit_version).order_by(edit_version.c.audit_seq)).all()
    for row in rows:
        name = f"edit {row.id}"
        try:
            with room.database.read() as connection:
                edit = read.find(connection, row.id)
            wrong = sealed_problems(room, edit)
            if not wrong and (more := content_problem(room.store.path(row.digest), row.digest, edit.gone)):
                wrong = [more]
        except (CatechismError, ValueError) as problem:
            wrong = [str(problem)]
        yield [Problem(name, one, _ARTIFACT) for one in wrong]


def _keys(room: Room) -> list[Problem]:
    fix = "Bring the file back from a backup, or remove it."
    broken = [identity for identity in room.keys.ids() if room.keys.public(identity) is None]
    return [Problem(f"key {identity}", "its file does not hold it", fix) for identity in broken]


def _facts(connection: Connection) -> Iterator[Problem | None]:
    destroyed = {seal.fact for seal in seals(connection)}
    for row in connection.execute(select(fact)):
        if not row.body:
            is_said = row.content_sha256 in destroyed
            yield None if is_said else Problem(f"fact {row.id}", "its text is gone and no seal says so", _BACKUP)
            continue
        try:
            expected = fact_columns(read_fact(json.loads(row.body)), row.recorded_at)
            wrong = [name for name, value in expected.items() if getattr(row, name) != value]
        except (ValueError, TypeError, KeyError):
            wrong = ["body"]
        yield (
            Problem(f"fact {row.id}", f"its {', '.join(wrong)} is not that of its content", _BACKUP) if wrong else None
        )


def _reports(connection: Connection) -> Iterator[Problem | None]:
    destroyed = {digest for seal in seals(connection) for digest in seal.reports}
    for row in connection.execute(select(report)):
        found = digest_bytes(row.body.encode())
        is_same = found == row.sha256 or (not row.body and row.sha256 in destroyed)
        yield None if is_same else Problem(f"report {row.sha256}", f"its content is {found}", _BACKUP)


def _datasets(connection: Connection) -> Iterator[Problem | None]:
    """The rows themselves lie in the artifacts, which prove them; here that edits and sets belong together."""
    used = set(connection.execute(select(edit_version.c.dataset_sha256)).scalars())
    known = set(connection.execute(select(dataset.c.sha256)).scalars())
    for digest in sorted(used | known):
        said = "no edit was made from it" if digest not in used else "its row is missing"
        yield None if digest in used & known else Problem(f"dataset {digest}", said, _BACKUP)


def _compositions(connection: Connection) -> Iterator[Problem | None]:
    known = {row.id: row.digest for row in connection.execute(select(edit_version.c.id, edit_version.c.digest))}
    for row in connection.execute(select(composition)):
        try:
            made = read.read_composition(row)
            strange = [entry.edit for entry in made.entries if known.get(entry.edit) != entry.digest]
            said = f"{', '.join(strange)} is no edit of this store" if strange else None
        except CatechismError as problem:
            said = str(problem)
        yield Problem(f"composition {row.cid}", said, _BACKUP) if said else None


def _epochs(connection: Connection) -> Iterator[Problem | None]:
    entries = _entries(connection)
    number = -1
    for row in connection.execute(select(epoch).order_by(epoch.c.number)):
        said: list[str] = []
        if row.number != number + 1:
            said.append(f"the epochs {number + 1} to {row.number - 1} before it are missing")
        entry = entries.get(row.audit_seq)
        body = json.loads(entry.body) if entry is not None else {}
        if entry is None or (body.get("epoch"), body.get("cid"), entry.actor) != (row.number, row.cid, row.actor):
            said.append(f"audit entry {row.audit_seq} does not speak of it")
        number = row.number
        yield Problem(f"epoch {row.number}", "; ".join(said), _BACKUP) if said else None
    yield from _missing_epochs(entries, number)


def _head(connection: Connection) -> Iterator[Problem | None]:
    try:
        found = read.current(connection).number
    except CatechismError:
        found = None
    last = connection.execute(select(func.max(epoch.c.number))).scalar()
    yield None if found == last else Problem("head", f"it is at epoch {found}, the last is {last}", _BACKUP)


def _missing_epochs(entries: dict[int, Any], last: int) -> Iterator[Problem | None]:
    for entry in entries.values():
        number = json.loads(entry.body).get("epoch", -1)
        if number > last:
            yield Problem(f"epoch {number}", f"audit entry {entry.seq} speaks of it, it is missing", _BACKUP)


def _states(connection: Connection) -> Iterator[Problem | None]:
    """The state of each edit is where its transitions lead, step by step of the table, as the audit says."""
    entries = _entries(connection)
    steps: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(select(transition).order_by(transition.c.id)):
        steps[row.edit_id].append(row)
    try:
        made = read.composition_of(connection, read.current(connection).cid)
    except CatechismError:
        made = Composition("", ())  # named by another check
    active = {entry.edit for entry in made.entries}
    for row in connection.execute(select(edit_version).order_by(edit_version.c.audit_seq)):
        said, state = _walk(steps[row.id], entries)
        if row.state != state or row.state_gen != len(steps[row.id]):
            said.append(f"its state is {row.state}, its transitions lead to {state}")
        if (row.state == State.PRODUCTION.value) != (row.id in active):
            said.append(f"it is {row.state} and {'in' if row.id in active else 'not in'} what is in effect")
        entry = entries.get(row.audit_seq)
        if entry is None or entry.object != row.id or json.loads(entry.body).get("digest") != row.digest:
            said.append(f"audit entry {row.audit_seq} does not speak of it")
        yield Problem(f"edit {row.id}", "; ".join(said), _BACKUP) if said else None
    known = set(connection.execute(select(edit_version.c.id)).scalars())
    for entry in entries.values():
        if entry.action in {"edit.add", "edit.import"} and entry.object not in known:
            yield Problem(f"edit {entry.object}", f"audit entry {entry.seq} speaks of it, its row is missing", _BACKUP)


def _walk(steps: list[Any], entries: dict[int, Any]) -> tuple[list[str], str]:
    said: list[str] = []
    state = State.DRAFT.value
    table = {(a.value, b.value, verb) for a, b, verb in TRANSITIONS}
    for row in steps:
        if row.frm != state or (row.frm, row.to, row.verb) not in table:
            said.append(f"the step {row.id} from {row.frm} to {row.to} by {row.verb} cannot be")
        if row.audit_seq not in entries:
            said.append(f"audit entry {row.audit_seq}, which speaks of its step {row.id}, is missing")
        state = row.to
    return said, state


def _evaluations(connection: Connection) -> Iterator[Problem | None]:
    entries = _entries(connection)
    for row in connection.execute(select(evaluation)):
        entry = entries.get(row.audit_seq)
        body = json.loads(entry.body) if entry is not None else {}
        expected = (row.report_sha256, _digest(row.verdict))
        is_said = entry is not None and entry.object == row.edit_id
        is_same = is_said and (body.get("report"), body.get("verdict")) == expected
        name = f"evaluation {row.id} of {row.edit_id}"
        yield None if is_same else Problem(name, f"audit entry {row.audit_seq} does not say this", _BACKUP)


def _approvals(connection: Connection) -> Iterator[Problem | None]:
    entries = _entries(connection)
    for row in connection.execute(select(approval)):
        entry = entries.get(row.audit_seq)
        body = json.loads(entry.body) if entry is not None else {}
        is_said = entry is not None and (entry.object, entry.actor) == (row.edit_id, row.approver)
        is_same = is_said and body.get("subject") == row.subject_digest and body.get("roles") == json.loads(row.roles)
        name = f"approval {row.id} of {row.edit_id} by {row.approver}"
        yield None if is_same else Problem(name, f"audit entry {row.audit_seq} does not say this", _BACKUP)


def _entries(connection: Connection) -> dict[int, Any]:
    return {row.seq: row for row in connection.execute(select(audit)) if _readable(row.body)}


def _readable(body: str) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _digest(raw: str) -> str | None:
    try:
        return digest_json(json.loads(raw))
    except ValueError:
        return None


_CHECKS = {
    "facts": _facts,
    "datasets": _datasets,
    "reports": _reports,
    "evaluations": _evaluations,
    "approvals": _approvals,
    "edits": _states,
    "compositions": _compositions,
    "epochs": _epochs,
    "head": _head,
}
