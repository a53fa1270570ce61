"""The database: connections that survive a kill, one writer at a time, and the schema brought up to date."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from catechism.errors import (
    CatechismError,
    Conflict,
    MissingExtra,
    RegistryError,
    SchemaMismatch,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
)
from catechism.registry.failpoints import failpoint

#: Schemas that this release knows, oldest first. The last one is what it works on.
REVISIONS = ("0001", "0002", "0003")
_UNCHANGED = "Nothing was changed."


class Database:
    """Where the rows are: SQLite as a rule, PostgreSQL by its address.

    A reader sees one moment. A writer is alone from its first statement on; what it did is there as a whole or not.

    Args:
        url: an SQLAlchemy address.
        timeout_s: how long to wait for another writer.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        try:
            address = make_url(url)
        except ArgumentError:
            raise RegistryError(f"{url!r} is no database address. Write sqlite:///FILE or postgresql://...") from None
        self.kind = address.get_backend_name()
        if self.kind not in {"sqlite", "postgresql"}:
            raise RegistryError(
                f"The registry runs on sqlite or postgresql, got {self.kind!r}. Set CATECHISM_DATABASE."
            )
        arguments: dict[str, Any] = {"timeout": timeout_s} if self.kind == "sqlite" else {}
        try:
            self.engine: Engine = create_engine(address, connect_args=arguments)
        except (ModuleNotFoundError, NoSuchModuleError) as problem:
            raise MissingExtra(f"No driver for {self.kind}: {problem}. Install one: pip install psycopg") from None
        if self.kind == "sqlite":
            event.listen(self.engine, "connect", _set_up)
            event.listen(self.engine, "begin", _begin)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees the database as it is now, to its end."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection that is the only writer. Commits at the end, undoes everything on any exception."""
        options: dict[str, Any] = {"is_writer": True}
        if self.kind != "sqlite":
            options["isolation_level"] = "SERIALIZABLE"
        with self.engine.connect().execution_options(**options) as connection:
            with connection.begin():
                yield connection
                failpoint("before_commit")
            failpoint("after_commit")

    def upgrade(self) -> None:
        """Bring the schema to the newest one. Two processes may try at once.

        Raises:
            SchemaMismatch: the database is newer than this release, or holds something else.
        """
        if self._revision() == REVISIONS[-1]:
            return
        with self.write() as connection:
            if _revision(connection) != REVISIONS[-1]:
                migrate(connection, "head")

    def _revision(self) -> str | None:
        with self.read() as connection:
            found = _revision(connection)
        if found is not None and found not in REVISIONS:
            raise SchemaMismatch(
                f"The database {self.engine.url!r} has the schema {found!r}, this release knows "
                f"{', '.join(REVISIONS)}. Upgrade with `pip install -U catechism`."
            )
        return found

    def forget_pages(self) -> None:
        """Take what was deleted or changed out of the write-ahead log too. Another reader may keep it there longer."""
        if self.kind == "sqlite":
            with self.engine.connect() as connection:
                connection.connection.driver_connection.execute(  # pyright: ignore[reportOptionalMemberAccess]
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                )

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def migrate(connection: Connection, revision: str, *, down: bool = False) -> None:
    """Run the migrations up or down to a revision, inside the transaction that is open."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(config, revision)


def _revision(connection: Connection) -> str | None:
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        if tables & {"edit_version", "audit", "epoch"}:
            raise SchemaMismatch(
                "The database holds tables of an unknown make. Name an empty one in CATECHISM_DATABASE."
            )
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    """Settings of a SQLite connection: nothing that was committed is lost, not even with the power."""
    connection.isolation_level = None  # BEGIN is ours to say, see `_begin`
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # what is deleted or changed is overwritten in the file
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")


def _begin(connection: Connection) -> None:
    # A writer that began as a reader could be refused half-way.
    is_writer = connection.get_execution_options().get("is_writer")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


@contextmanager
def clear_errors(home: Path) -> Iterator[None]:
    """Say in plain words what a disk or a database refused, and what to do about it."""
    try:
        yield
    except CatechismError:
        raise
    except OSError as error:
        if named := _of_disk(error, home):
            raise named from error
        raise
    except DBAPIError as error:
        if named := _of_database(error, home):
            raise named from error
        raise


def _of_disk(error: OSError, home: Path) -> RegistryError | None:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _full(home, str(error.strerror))
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return _read_only(home, str(error.strerror))
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return RegistryError(f"{error.filename or home} is not a folder. Name a folder in CATECHISM_HOME.")
    return None


def _of_database(error: DBAPIError, home: Path) -> RegistryError | None:
    said = str(error.orig)
    if "can only be added to" in said:
        return StoreDamaged(f"{said}: history is not rewritten. Take an edit back with `catechism rollback`.")
    if "locked" in said or "busy" in said:
        return StoreBusy(
            f"The database of {home} is held by another process ({said}). {_UNCHANGED} "
            "Let the other command finish, then run this one again."
        )
    if "full" in said or "No space" in said:
        return _full(home, said)
    if "readonly" in said or "unable to open" in said or "read-only" in said:
        return _read_only(home, said)
    if "malformed" in said or "not a database" in said or "disk I/O" in said:
        return StoreDamaged(f"The database of {home} cannot be read ({said}). Bring it back from a backup.")
    if getattr(error.orig, "sqlstate", None) == "40001" or "UNIQUE constraint" in said:
        return Conflict(f"Another process wrote the same at the same time ({said}). {_UNCHANGED} Run it again.")
    return None


def _full(home: Path, said: str) -> StoreFull:
    return StoreFull(
        f"No space left for the store {home} ({said}). {_UNCHANGED} Free some space and run the same command again."
    )


def _read_only(home: Path, said: str) -> StoreReadOnly:
    return StoreReadOnly(
        f"The store {home} cannot be written to ({said}). {_UNCHANGED} Make it writable for this user, or point "
        "CATECHISM_HOME to a copy in a folder that is."
    )
