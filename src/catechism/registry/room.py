"""What every verb of the registry needs in hand, and the one way to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import insert, select, update
from sqlalchemy.exc import DBAPIError

from catechism.errors import CatechismError, Conflict, StoreDamaged
from catechism.hashing import canonical_json
from catechism.registry import read
from catechism.registry.audit import CHECKPOINT_EVERY, Checkpoints, Writer
from catechism.registry.database import Database
from catechism.registry.manifest import person
from catechism.registry.policy import Policy, check_step
from catechism.registry.records import Composition, Epoch, Problem, State
from catechism.registry.signing import Keys
from catechism.registry.store import Store
from catechism.registry.tables import composition, edit_version, epoch, head, transition
from catechism.registry.times import micros, text

SYSTEM = "catechism"


@dataclass(slots=True)
class Room:
    """A store that is open.

    Attributes:
        home: its folder.
        database, store, keys, checkpoints: its parts.
        policy: how many approvals an edit needs.
        now: the clock.
        damage: what was wrong with the audit when it was opened. Then nothing but a rollback is written.
        has_written: whether anything was.
    """

    home: Path
    database: Database
    store: Store
    keys: Keys
    checkpoints: Checkpoints
    policy: Policy
    now: Callable[[], datetime]
    damage: tuple[Problem, ...] = ()
    has_written: bool = False

    @contextmanager
    def writing(self, actor: str, *, even_if_damaged: bool = False) -> Iterator[Writer]:
        """A transaction on somebody's behalf. All of it is done at the end of the block, or none of it."""
        actor = person("the name of who does it", actor)
        if self.damage and not even_if_damaged:
            first = self.damage[0]
            raise StoreDamaged(
                f"The audit chain of {self.home} does not hold: {first.object}: {first.problem}. Nothing is written to "
                "a store like that except rollbacks. See what is wrong with `catechism verify`."
            )
        with self.database.write() as connection:
            writer = Writer(connection, micros(self.now()), actor)
            before = writer.seq
            yield writer
        self.has_written = True
        if writer.seq // CHECKPOINT_EVERY > before // CHECKPOINT_EVERY:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Sign the audit as it is. What was done stands in any case, and the next checkpoint covers it too."""
        if self.damage:
            return
        with suppress(CatechismError, OSError, DBAPIError):
            with self.database.write() as connection:
                self.checkpoints.write(connection, micros(self.now()))
            with self.database.read() as connection:
                self.checkpoints.write_file(connection)


def step(writer: Writer, edit: str, to: State, verb: str, seq: int) -> None:
    """Take an edit one step of the table further, as the audit's entry `seq` says.

    Raises:
        WrongState: the table has no such step.
    """
    row = state_of(writer, edit)
    check_step(edit, row, to, verb)
    done = writer.connection.execute(
        update(edit_version)
        .where(edit_version.c.id == edit, edit_version.c.state == row.value)
        .values(state=to.value, state_gen=edit_version.c.state_gen + 1)
    )
    if done.rowcount != 1:
        raise Conflict(f"{edit} changed while it was being changed. Nothing was done; run the command again.")
    values = {"edit_id": edit, "frm": row.value, "to": to.value, "verb": verb, "at": writer.at, "audit_seq": seq}
    writer.connection.execute(insert(transition).values(**values))


def state_of(writer: Writer, edit: str) -> State:
    """The state of an edit inside a transaction."""
    return State(writer.connection.execute(select(edit_version.c.state).where(edit_version.c.id == edit)).scalar_one())


def advance(writer: Writer, seen: int, made: Composition, reason: str, seq: int) -> Epoch:
    """Make a composition the one in effect: a new epoch, and the head on it, if the head still is where it was seen.

    Raises:
        Conflict: it is not.
    """
    connection = writer.connection
    if connection.execute(select(composition.c.cid).where(composition.c.cid == made.cid)).first() is None:
        row = {"cid": made.cid, "base": made.base, "entries": json_of(made), "created_at": writer.at}
        connection.execute(insert(composition).values(**row))
    number = seen + 1
    connection.execute(
        insert(epoch).values(
            number=number, cid=made.cid, actor=writer.actor, reason=reason, at=writer.at, audit_seq=seq
        )
    )
    moved = connection.execute(
        update(head).where(head.c.name == read.HEAD, head.c.epoch == seen).values(epoch=number, gen=head.c.gen + 1)
    )
    if moved.rowcount != 1:
        raise moved_on(read.current(connection).number, seen)
    return Epoch(number, made.cid, writer.actor, reason, text(writer.at))


def first_epoch(writer: Writer) -> None:
    """Write the empty beginning of a store."""
    empty = Composition("", ())
    seq = writer.record("store.create", read.HEAD, {"epoch": 0, "cid": empty.cid})
    row = {"cid": empty.cid, "base": "", "entries": json_of(empty), "created_at": writer.at}
    writer.connection.execute(insert(composition).values(**row))
    values = {"number": 0, "cid": empty.cid, "actor": writer.actor, "reason": "the beginning", "at": writer.at}
    writer.connection.execute(insert(epoch).values(**values, audit_seq=seq))
    writer.connection.execute(insert(head).values(name=read.HEAD, epoch=0, gen=0))


def moved_on(found: int, expected: int) -> Conflict:
    """The error for a head that is not where it was seen."""
    return Conflict(
        f"The store is at epoch {found}, expected {expected}: somebody else promoted or rolled back. Nothing was done; "
        "look at `catechism list --state production` and run the command again."
    )


def json_of(made: Composition) -> str:
    """The entries of a composition as its row holds them."""
    return canonical_json([entry.json() for entry in made.entries]).decode()
