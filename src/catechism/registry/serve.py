"""What is in effect: promoting an edit into the composition, and going back."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from catechism.errors import Conflict, StoreDamaged, UsageError
from catechism.registry import read
from catechism.registry.audit import Writer
from catechism.registry.destruction import refuse
from catechism.registry.manifest import fact_columns, forget_key
from catechism.registry.policy import check_step
from catechism.registry.prove import sealed_problems
from catechism.registry.records import Composition, EditVersion, Entry, Epoch, State
from catechism.registry.review import check_let_through
from catechism.registry.room import Room, advance, moved_on, state_of, step
from catechism.registry.tables import edit_version, transition
from catechism.registry.times import text
from catechism.types import Fact


def promote(room: Room, ref: str, by: str, expect_epoch: int | None) -> Epoch:
    """Put an edit in effect, in one transaction, if everything that has to hold still does."""
    with room.database.read() as connection:
        found = read.find(connection, ref)
        if found.sealed:
            raise refuse(found, "promoted")
        seen = read.current(connection).number if expect_epoch is None else expect_epoch
    if wrong := sealed_problems(room, found):
        raise StoreDamaged(f"{found.id} does not prove itself: {'; '.join(wrong)}. See `catechism verify`.")
    with room.writing(by) as writer:
        connection = writer.connection
        edit, now = read.find(connection, found.id), read.current(connection)
        check_step(edit.id, edit.state, State.PRODUCTION, "promote")
        if now.number != seen:
            raise moved_on(now.number, seen)
        given = check_let_through(room, edit, read.approvals(connection, edit.id), text(writer.at))
        made = read.composition_of(connection, now.cid)
        others = read.active(connection, made)
        replaced = [other for other in others if other.id in {edit.supersedes, *edit.removes}]
        _check_base(edit, made)
        for other in others:
            if other in replaced and other.sealed:
                raise refuse(other, "replaced")
            if other not in replaced:
                _check_agreement(edit, other)
        entry = Entry(edit.id, edit.digest)
        new = _with(made, [other.id for other in replaced], [entry], edit.base)
        body = {
            "subject": edit.to_approve, "approvals": [a.id for a in given], "policy": room.policy.json(),
            "epoch": seen + 1, "cid": new.cid, "retired": [other.id for other in replaced],
        }  # fmt: skip
        seq = writer.record("edit.promote", edit.id, body)
        step(writer, edit.id, State.PRODUCTION, "promote", seq)
        for other in replaced:
            step(writer, other.id, State.RETIRED, "supersede", seq)
        return advance(writer, seen, new, f"promote {edit.id}", seq)


def _check_agreement(edit: EditVersion, other: EditVersion) -> None:
    """Raises Conflict where two edits that are to be in effect together want contrary things."""
    for deletion, taught in ((edit, other), (other, edit)):
        if forget_key(taught.fact) in deletion.forgets and taught.kind != "delete":
            raise Conflict(
                f"{taught.id} teaches what {deletion.id} forgets: {taught.fact.sentence} Roll one of the two back: "
                f"`catechism rollback {other.id}`, or forget it again, which takes the edit that teaches it out."
            )
    is_answered = [one.kind != "delete" or bool(one.object) for one in (edit, other)]
    if other.sealed or not all(is_answered):  # a deletion that puts nothing in the place contradicts no other answer
        return
    if why := contradiction(edit.fact, other.fact):
        raise Conflict(
            f"{edit.id} says that {why[0]}, the active {other.id} says {why[1]}. Learn it again so that it "
            f"supersedes {other.id}, or roll that one back."
        )


def contradiction(new: Fact, old: Fact) -> tuple[str, str] | None:
    """What two facts say where they contradict each other: one thing asked, two answers, days that both hold on."""
    left, right = fact_columns(new, 0), fact_columns(old, 0)
    if any(left[key] != right[key] for key in ("subject_key", "relation_key")):
        return None
    if left["object_key"] == right["object_key"] or not _overlap(new, old):
        return None
    return new.sentence.rstrip("."), old.object


def _overlap(a: Fact, b: Fact) -> bool:
    starts = max(a.valid_from or "", b.valid_from or "")
    ends = min(a.valid_to or "9999-12-31", b.valid_to or "9999-12-31")
    return starts[:10] <= ends[:10]


def _check_base(edit: EditVersion, made: Composition) -> None:
    if made.entries and made.base != edit.base:
        raise Conflict(
            f"{edit.id} was made on the base {edit.base}, what is in effect here on {made.base}. Keep one store "
            "for each base: set CATECHISM_HOME."
        )


def rollback(room: Room, ref: str | None, to_epoch: int | None, by: str, reason: str) -> Epoch:
    """Take one edit back, or everything since an epoch. Needs no approval and no artifact, only the database."""
    if (ref is None) == (to_epoch is None):
        raise UsageError("A rollback takes one edit, or an epoch to go back to. Give one of the two.")
    if not reason.strip():
        raise UsageError("A rollback needs a reason. Say in a few words why.")
    with room.writing(by, even_if_damaged=True) as writer:
        now = read.current(writer.connection)
        if ref is not None:
            edit = read.find(writer.connection, ref)
            if edit.state in (State.ROLLED_BACK, State.RETIRED):
                return now
            if edit.sealed:
                raise refuse(edit, "rolled back")
            new, name, note = _without(writer, now, edit), edit.id, ""
        else:
            new, note = _as_at(writer.connection, to_epoch or 0)
            name = f"epoch {to_epoch}"
        if new.cid == now.cid and ref is None:
            return now
        in_effect, wanted = _production(writer.connection), {entry.edit for entry in new.entries}
        seq = writer.record("rollback", name, {"reason": reason, "epoch": now.number + 1, "cid": new.cid})
        for gone in [name] if ref is not None else sorted(in_effect - wanted):
            step(writer, gone, State.ROLLED_BACK, "rollback", seq)
        for back in sorted(wanted - in_effect):
            step(writer, back, State.PRODUCTION, "rollback", seq)
        return advance(writer, now.number, new, f"roll back {name}: {reason}{note}", seq)


def _without(writer: Writer, now: Epoch, edit: EditVersion) -> Composition:
    """What is in effect less one edit, with what it had replaced in its place again if nothing speaks against."""
    check_step(edit.id, state_of(writer, edit.id), State.ROLLED_BACK, "rollback")
    made = read.composition_of(writer.connection, now.cid)
    others = [other for other in read.active(writer.connection, made) if other.id != edit.id]
    back = [
        Entry(old.id, old.digest)
        for old in _replaced_by(writer.connection, edit)
        if not any(contradiction(old.fact, other.fact) for other in others)
    ]
    return _with(made, [edit.id], back)


def _with(made: Composition, places: Sequence[str], new: Sequence[Entry], base: str = "") -> Composition:
    """A composition with entries in the place of the first of some edits, and without the others of them.

    Where none of them is in it, the entries come last.
    """
    gone = [held.edit in places for held in made.entries]
    first = gone.index(True) if True in gone else len(gone)
    left = [held for held, is_gone in zip(made.entries, gone, strict=True) if not is_gone]
    entries = (*left[:first], *new, *left[first:])
    return Composition((base or made.base) if entries else "", entries)


def _replaced_by(connection: Connection, edit: EditVersion) -> list[EditVersion]:
    """The edits that were retired when this one was promoted, if they still are retired and not sealed."""
    promoted = (
        select(transition.c.audit_seq)
        .where(transition.c.edit_id == edit.id, transition.c.verb == "promote")
        .order_by(transition.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    retired = select(transition.c.edit_id).where(
        transition.c.audit_seq == promoted, transition.c.to == State.RETIRED.value
    )
    known = read.versions(connection, edit_version.c.id.in_(connection.execute(retired).scalars().all()))
    return [old for old in known if old.state is State.RETIRED and not old.sealed]


def _as_at(connection: Connection, number: int) -> tuple[Composition, str]:
    """What was in effect at an epoch, and a note about what is not as it was then.

    What was rolled back since, and what is sealed, stays out; a sealed deletion stays in.
    """
    made = read.composition_of(connection, read.numbered(connection, number).cid)
    known = {edit.id: edit for edit in read.active(connection, made)}
    served = read.versions(connection, edit_version.c.state == State.PRODUCTION.value)
    kept = [edit for edit in served if edit.sealed]
    gone = {
        edit.id
        for edit in known.values()
        if edit.state is State.ROLLED_BACK or (edit.sealed and edit.state is not State.PRODUCTION)
    }
    entries = tuple(entry for entry in made.entries if entry.edit not in gone)
    stays = tuple(Entry(edit.id, edit.digest) for edit in kept if edit.id not in known)
    if stays and {entry.edit for entry in (*entries, *stays)} == {edit.id for edit in served}:
        raise refuse(kept[0], "taken back by going to an epoch before it")
    base = made.base or (kept[0].base if kept else "")
    notes = [f"without {', '.join(sorted(gone))}, rolled back or sealed since"] if gone else []
    notes += [f"with {', '.join(entry.edit for entry in stays)}, sealed since"] if stays else []
    entries = (*entries, *stays)
    return Composition(base if entries else "", entries), f" ({'; '.join(notes)})" if notes else ""


def _production(connection: Connection) -> set[str]:
    return set(
        connection.execute(select(edit_version.c.id).where(edit_version.c.state == State.PRODUCTION.value)).scalars()
    )
