"""The registry: every edit with its evidence, its approvals and its state, and what is in effect at any time."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy import select

from catechism.errors import StoreDamaged, UnknownName
from catechism.matching import name_key
from catechism.registry import bundle, destruction, prove, read, review, seal, serve, verify
from catechism.registry.audit import Checkpoints, entry_of
from catechism.registry.database import Database, clear_errors
from catechism.registry.policy import Policy
from catechism.registry.records import (
    Approval,
    AuditEntry,
    Composition,
    Draft,
    EditVersion,
    Epoch,
    Problem,
    Seal,
    State,
    Sweep,
    Verification,
)
from catechism.registry.room import SYSTEM, Room, first_epoch
from catechism.registry.signing import Keys
from catechism.registry.store import CATECHISM, DELTA, TRAINING, Store
from catechism.registry.tables import audit, edit_version, fact, head, report
from catechism.registry.times import micros, utc_now
from catechism.types import JSON, Catechism

if TYPE_CHECKING:
    from catechism.delta import Delta

DATABASE = "registry.db"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _clear(method: Callable[Concatenate[Registry, _P], _R]) -> Callable[Concatenate[Registry, _P], _R]:
    """A verb whose refusals by disk or database are said in plain words."""

    @functools.wraps(method)
    def call(self: Registry, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with clear_errors(self.home):
            return method(self, *args, **kwargs)

    return call


class Registry:
    """One store of edits. Open it with `Registry.open`; several processes and threads may have it open at once.

    An edit is named by its id, by the beginning of it, or by the beginning of its digest. Names of people are taken
    as they are given: who may speak for whom is the caller's to know. ``docs/registry.md`` describes everything.
    """

    def __init__(self, room: Room) -> None:
        self._room = room

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        url: str | None = None,
        now: Callable[[], datetime] = utc_now,
        policy: Policy | None = None,
        timeout_s: float = 10.0,
    ) -> Registry:
        """Open a store, making it or bringing it up to date if need be, and take away what killed processes left.

        Args:
            home: its folder.
            url: SQLAlchemy address of another database; None takes ``registry.db`` in the folder.
            now: the clock.
            policy: how many approvals an edit needs; None takes `Policy`'s default.
            timeout_s: how long to wait for another process that writes.

        Raises:
            StoreReadOnly, StoreFull, StoreBusy: the folder or the database cannot be written to.
            SchemaMismatch: made by a newer release.
            RegistryError: the folder is a file, or the database is of an unknown kind.
        """
        home = Path(home)
        with clear_errors(home):
            store, keys = Store(home / "store"), Keys(home / "keys")
            store.create()
            keys.folder.mkdir(mode=0o700, exist_ok=True)
            address = url or f"sqlite:///{(home / DATABASE).resolve()}"
            database = Database(address, timeout_s=timeout_s)
            room = Room(
                home, database, store, keys, Checkpoints(home / "checkpoint.json", keys), policy or Policy(), now
            )
            try:
                database.upgrade()
                registry = cls(room)
                stated = room.checkpoints.in_file()  # before the database, which only grows
                with database.read() as connection:
                    room.damage = tuple(room.checkpoints.check_tail(connection, stated))
                    is_new = connection.execute(select(head)).first() is None
                if is_new or not keys.private.exists():
                    registry._begin()
                registry.sweep()
            except BaseException:
                database.close()
                raise
            return registry

    def _begin(self) -> None:
        """Write the empty beginning, and that a key was made. Two processes may do it at once."""
        room = self._room
        is_key_new = not room.keys.private.exists()
        identity = room.keys.own_id()
        with room.writing(SYSTEM, even_if_damaged=True) as writer:
            if is_key_new:
                writer.record("key.create", identity, {})
            if writer.connection.execute(select(head)).first() is None:
                first_epoch(writer)

    @property
    def home(self) -> Path:
        """The store's folder."""
        return self._room.home

    @property
    def policy(self) -> Policy:
        """How many approvals an edit needs."""
        return self._room.policy

    @property
    def keys(self) -> Keys:
        """Who signs here."""
        return self._room.keys

    @property
    def damage(self) -> tuple[Problem, ...]:
        """What was wrong with the audit when the store was opened. Then nothing but rollbacks is written."""
        return self._room.damage

    def close(self) -> None:
        """Sign the audit if anything was added, and let go of the database."""
        if self._room.has_written:
            self._room.checkpoint()
        self._room.database.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @_clear
    def add_edit(self, draft: Draft) -> EditVersion:
        """Seal a draft and keep it. The same draft again gives the version that is there, unless that has ended.

        Raises:
            UsageError: something in the draft is missing or cannot be kept.
            WrongBase: the delta was made for another base than the draft says.
            UnknownEdit: what it supersedes is not there.
        """
        return seal.add(self._room, draft)

    @_clear
    def add_report(
        self, edit: str, report: Mapping[str, JSON], verdict: Mapping[str, JSON], *, by: str = ""
    ) -> EditVersion:
        """Keep an evaluation by its content; a draft whose verdict says PASS becomes validated, any other stays.

        Args:
            edit: which.
            report: what was measured, `Report.json()` for instance.
            verdict: what the gates say about it, `Verdict.json()`; its `status` decides.
            by: who tested; "" takes the author.
        """
        return review.add_report(self._room, edit, report, verdict, by)

    @_clear
    def approve(self, edit: str, by: str, *, comment: str = "", roles: Sequence[str] = ()) -> Approval:
        """Consent to exactly this manifest, report and verdict, until the policy's lifetime is over.

        Raises:
            Denied: the approver is the author.
            WrongState: it is not validated.
        """
        return review.approve(self._room, edit, by, comment, roles)

    @_clear
    def reject(self, edit: str, by: str, reason: str) -> EditVersion:
        """End a draft or a validated edit. Raises WrongState for any other."""
        return review.reject(self._room, edit, by, reason)

    @_clear
    def promote(self, edit: str, by: str, *, expect_epoch: int | None = None) -> Epoch:
        """Put an edit in effect beside the others. What it supersedes is retired in the same step.

        Args:
            edit: which; it has to be validated.
            by: who does it.
            expect_epoch: the epoch that the caller has looked at; None takes the one at the beginning of the call.

        Raises:
            Denied: approvals are missing, or the last verdict is no pass.
            Conflict: an active fact says otherwise, another base is in effect, or somebody else was first.
            WrongState: it is not validated.
            StoreDamaged: its artifact does not prove itself.
        """
        return serve.promote(self._room, edit, by, expect_epoch)

    @_clear
    def rollback(self, edit: str | None = None, *, to_epoch: int | None = None, by: str, reason: str) -> Epoch:
        """Take one edit back, or everything that came after an epoch. Gives the epoch that is in effect then.

        Needs no approval, no key and no artifact, and works on a store whose audit is damaged.
        What a rolled back edit had replaced is in effect again. Going back to an epoch leaves out what was rolled back
        since; the reason of the new epoch names it.

        Raises:
            WrongState: the edit never was in effect.
            UnknownDate: there is no such epoch.
            Sealed: it would take a sealed deletion back.
        """
        return serve.rollback(self._room, edit, to_epoch, by, reason)

    @_clear
    def seal(self, edits: Sequence[str], by: str, *, reason: str) -> list[Seal]:
        """Destroy what would bring ended edits, or a deletion in effect, back; the audit keeps hashes. No way back.

        Raises:
            WrongState: an edit is in effect and no deletion, or has not ended.
            UsageError: an edit that is not named holds the same fact.
        """
        return destruction.seal(self._room, edits, by, reason)

    @_clear
    def certified(self, edit: str, certificate: str, verdict: str, by: str) -> AuditEntry:
        """Write into the audit that a certificate of this digest was issued about an edit, with this verdict."""
        return review.certified(self._room, edit, certificate, verdict, by)

    @_clear
    def edits(self, *, state: str | None = None, subject: str | None = None) -> list[EditVersion]:
        """The edits, oldest first; those of a state, those about a subject. Raises UnknownName for no such state."""
        conditions = []
        if state is not None:
            if state not in {known.value for known in State}:
                close = get_close_matches(state, [known.value for known in State], n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"Use one of: {', '.join(State)}."
                raise UnknownName(f"There is no state {state[:50]!r}. {hint}")
            conditions.append(edit_version.c.state == state)
        if subject is not None:
            conditions.append(fact.c.subject_key == name_key(subject))
        with self._room.database.read() as connection:
            return read.versions(connection, *conditions)

    @_clear
    def edit(self, ref: str) -> EditVersion:
        """One edit. Raises UnknownEdit, which lists close ones."""
        with self._room.database.read() as connection:
            return read.find(connection, ref)

    @_clear
    def approvals(self, ref: str) -> list[Approval]:
        """Every approval of an edit, oldest first, those that count no more included."""
        return review.approvals_of(self._room, ref)

    @_clear
    def missing(self, ref: str) -> str | None:
        """What keeps the policy from letting an edit through, in words; None if nothing does."""
        return review.missing(self._room, ref)

    @_clear
    def catechism(self, ref: str) -> Catechism:
        """The fact of an edit with its exam, proven by its hash. Raises StoreDamaged if it is another."""
        return prove.sealed_catechism(self._sound(ref, CATECHISM))

    @_clear
    def training(self, ref: str) -> list[dict[str, JSON]]:
        """The rows that an edit was made from, proven by their hash."""
        return prove.sealed_training(self._sound(ref, TRAINING))

    @_clear
    def delta(self, ref: str) -> Delta | None:
        """The change of an edit, proven by its hashes; None for an edit that stays text."""
        folder, edit = self._sound(ref, DELTA), self.edit(ref)
        if edit.artifact is None:
            return None
        from catechism.delta import load

        return load(folder / DELTA, base=edit.base)

    def _sound(self, ref: str, file: str) -> Path:
        """The folder of an edit. Raises Sealed if this file of it was destroyed, StoreDamaged if it is not sound."""
        edit = self.edit(ref)
        if file in edit.gone:
            raise destruction.refuse(edit, "read")
        if wrong := prove.sealed_problems(self._room, edit):
            raise StoreDamaged(f"{edit.id} does not prove itself: {'; '.join(wrong)}. See `catechism verify`.")
        return self._room.store.path(edit.digest)

    @_clear
    def report(self, ref: str) -> JSON:
        """The latest evaluation of an edit; None before the first, and where its text was destroyed."""
        with self._room.database.read() as connection:
            digest = read.find(connection, ref).report
            body = connection.execute(select(report.c.body).where(report.c.sha256 == digest)).scalar()
        return json.loads(body) if body else None

    @_clear
    def head(self) -> Epoch:
        """The epoch that is in effect."""
        with self._room.database.read() as connection:
            return read.current(connection)

    @_clear
    def epochs(self) -> list[Epoch]:
        """All epochs, oldest first."""
        with self._room.database.read() as connection:
            return read.epochs(connection)

    @_clear
    def composition(self, cid: str) -> Composition:
        """A composition by its digest or the beginning of it. Raises UnknownEdit if there is none."""
        with self._room.database.read() as connection:
            return read.composition_of(connection, cid)

    @_clear
    def as_of(self, date: str) -> Composition:
        """What was in effect at the end of a day (UTC), or at a time.

        Raises:
            UnknownDate: it cannot be read, or lies before the store.
        """
        with self._room.database.read() as connection:
            return read.composition_of(connection, read.as_of(connection, date).cid)

    @_clear
    def active(self, composition: Composition | None = None) -> list[EditVersion]:
        """The edits of a composition in its order; None takes what is in effect."""
        with self._room.database.read() as connection:
            made = composition or read.composition_of(connection, read.current(connection).cid)
            return read.active(connection, made)

    @_clear
    def log(self, *, limit: int | None = None) -> list[AuditEntry]:
        """The audit, newest first."""
        with self._room.database.read() as connection:
            rows = connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(limit))
            return [entry_of(row) for row in rows]

    @_clear
    def verify(self) -> Verification:
        """Derive every hash, signature and chain again and list everything that does not match."""
        return verify.verify(self._room)

    @_clear
    def export(self, refs: Sequence[str], path: Path) -> Path:
        """Write edits to a new folder, or a tar if the name ends in ``.tar``, for `import_` elsewhere."""
        return bundle.export(self._room, refs, Path(path))

    @_clear
    def import_(self, path: Path, by: str) -> list[EditVersion]:
        """Take over what `export` wrote, as drafts, after proving everything again; all or nothing.

        Raises:
            BadBundle: anything in it does not match, or has no place in a bundle.
        """
        return bundle.import_(self._room, Path(path), by)

    @_clear
    def sweep(self) -> Sweep:
        """Take away unfinished folders, and artifacts that no row names. `open` does it too."""
        room = self._room
        destruction.finish(room)

        def known() -> set[str]:
            with room.database.read() as connection:
                return set(connection.execute(select(edit_version.c.digest)).scalars())

        return room.store.sweep(known, now_s=micros(room.now()) / 1e6)
