"""What people and gates say about an edit: evaluations, approvals, rejections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import insert, select

from catechism.errors import Denied, UsageError, WrongState
from catechism.hashing import canonical_json, digest_json
from catechism.matching import name_key
from catechism.registry import read
from catechism.registry.audit import entry_of
from catechism.registry.manifest import person
from catechism.registry.policy import ENDED, check_step
from catechism.registry.records import Approval, AuditEntry, EditVersion, State
from catechism.registry.room import Room, step
from catechism.registry.tables import approval, audit, evaluation, report
from catechism.registry.times import micros, text
from catechism.types import JSON

STATUSES = ("PASS", "FAIL", "ERROR", "INCONCLUSIVE")
_APPROVABLE = (State.VALIDATED, State.SHADOW, State.CANARY)


def add_report(room: Room, ref: str, made: Mapping[str, JSON], verdict: Mapping[str, JSON], by: str) -> EditVersion:
    """Keep an evaluation with its verdict; a draft whose verdict is a pass becomes validated."""
    if verdict.get("status") not in STATUSES:
        raise UsageError(f"A verdict has a status, got {verdict.get('status')!r}. Give one of: {', '.join(STATUSES)}.")
    try:
        body, said = canonical_json(dict(made)).decode(), canonical_json(dict(verdict)).decode()
    except (TypeError, ValueError) as problem:
        raise UsageError(f"A report must be plain, finite JSON: {problem}. Use `Report.json()`.") from problem
    digest = digest_json(dict(made))
    with room.database.read() as connection:
        found = read.find(connection, ref)
    with room.writing(by or found.author) as writer:
        edit = read.find(writer.connection, found.id)
        if edit.state in ENDED:
            check_step(edit.id, edit.state, State.VALIDATED, "report")
        if edit.report == digest and edit.verdict == dict(verdict):
            return edit
        status = str(verdict["status"])
        seq = writer.record(
            "edit.report", edit.id, {"report": digest, "verdict": digest_json(dict(verdict)), "status": status}
        )
        if writer.connection.execute(select(report.c.sha256).where(report.c.sha256 == digest)).first() is None:
            writer.connection.execute(insert(report).values(sha256=digest, body=body))
        row = {"edit_id": edit.id, "report_sha256": digest, "verdict": said, "at": writer.at, "audit_seq": seq}
        writer.connection.execute(insert(evaluation).values(**row))
        if edit.state is State.DRAFT and status == "PASS":
            step(writer, edit.id, State.VALIDATED, "report", seq)
        return read.find(writer.connection, edit.id)


def approve(room: Room, ref: str, by: str, comment: str, roles: Sequence[str]) -> Approval:
    """Consent to exactly this manifest, report and verdict. Once given it counts until it expires."""
    by = person("an approver", by)
    carried = sorted({person("a role", role) for role in roles})
    with room.database.read() as connection:
        found = read.find(connection, ref)
    with room.writing(by) as writer:
        edit = read.find(writer.connection, found.id)
        if edit.state not in _APPROVABLE:
            fix = (
                "Test it first: `catechism test`."
                if edit.state is State.DRAFT
                else "Nothing is left to approve; see `catechism show`."
            )
            raise WrongState(f"{edit.id} is {edit.state}, only a validated edit can be approved. {fix}")
        if name_key(by) == name_key(edit.author):
            raise Denied(
                f"{by} is the author of {edit.id}. Let somebody else approve it: `catechism approve {edit.id}`."
            )
        now = text(writer.at)
        for given in read.approvals(writer.connection, edit.id):
            is_same = (given.by, list(given.roles), given.subject) == (by, carried, edit.to_approve)
            if is_same and given.at <= now < given.expires_at:
                return given
        body = {"subject": edit.to_approve, "roles": [*carried], "comment": comment}
        seq = writer.record("edit.approve", edit.id, body)
        until = writer.at + int(room.policy.lifetime.total_seconds() * 1_000_000)
        row = {
            "edit_id": edit.id, "approver": by, "roles": canonical_json(carried).decode(),
            "subject_digest": edit.to_approve, "comment": comment, "at": writer.at, "expires_at": until,
            "audit_seq": seq,
        }  # fmt: skip
        writer.connection.execute(insert(approval).values(**row))
        return read.approvals(writer.connection, edit.id)[-1]


def reject(room: Room, ref: str, by: str, reason: str) -> EditVersion:
    """End a draft or a validated edit."""
    if not reason.strip():
        raise UsageError("A rejection needs a reason. Say in a few words why.")
    with room.database.read() as connection:
        found = read.find(connection, ref)
    with room.writing(by) as writer:
        edit = read.find(writer.connection, found.id)
        if edit.state is State.REJECTED:
            return edit
        check_step(edit.id, edit.state, State.REJECTED, "reject")
        seq = writer.record("edit.reject", edit.id, {"reason": reason})
        step(writer, edit.id, State.REJECTED, "reject", seq)
        return read.find(writer.connection, edit.id)


def approvals_of(room: Room, ref: str) -> list[Approval]:
    """Everything that was approved about an edit, oldest first; what counts now is for the policy to say."""
    with room.database.read() as connection:
        return read.approvals(connection, read.find(connection, ref).id)


def missing(room: Room, ref: str) -> str | None:
    """What an edit lacks for being promoted now, in words; None if the policy lets it through."""
    with room.database.read() as connection:
        edit = read.find(connection, ref)
        given = read.approvals(connection, edit.id)
    try:
        check_let_through(room, edit, given, text(micros(room.now())))
    except Denied as reason:
        return str(reason)
    return None


def check_let_through(room: Room, edit: EditVersion, given: Sequence[Approval], at: str) -> tuple[Approval, ...]:
    """The approvals that count. Raises Denied if the last test was no pass or the policy wants more of them."""
    if not edit.passed:
        status = (edit.verdict or {}).get("status", "missing")
        raise Denied(f"The last verdict on {edit.id} is {status}, not PASS. Test it again: `catechism test {edit.id}`.")
    return room.policy.counting(edit, given, at)


def certified(room: Room, ref: str, certificate: str, verdict: str, by: str) -> AuditEntry:
    """An entry of the audit about a certificate."""
    with room.database.read() as connection:
        edit = read.find(connection, ref)
    with room.writing(by) as writer:
        seq = writer.record("edit.certify", edit.id, {"certificate": certificate, "verdict": verdict})
        return entry_of(writer.connection.execute(select(audit).where(audit.c.seq == seq)).one())
