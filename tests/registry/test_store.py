"""What surrounds the verbs: migrations, refusals of disk and database, the envelope of a signature."""

from __future__ import annotations

import base64
import errno
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from catechism.errors import (
    CatechismError,
    MissingExtra,
    RegistryError,
    SchemaMismatch,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
    UsageError,
)
from catechism.registry import Policy, Registry
from catechism.registry import database as database_module
from catechism.registry import store as store_module
from catechism.registry.database import REVISIONS, Database, migrate
from catechism.registry.signing import EDIT_TYPE, Keys, check
from catechism.registry.tables import metadata
from catechism.types import Risk
from tests.registry.sample import PASS, draft, opened, promoted, validated


def test_the_migrations_make_the_tables_that_queries_see(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.upgrade()
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISIONS[-1]
    database.close()


def test_the_list_of_schemas_is_that_of_the_migrations() -> None:
    scripts = ScriptDirectory(str(Path(database_module.__file__).parent / "migrations"))
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == REVISIONS


def test_up_down_and_up_again_keeps_what_is_there(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        edit = promoted(registry)
        before = registry.log()
    database = Database(f"sqlite:///{tmp_path / 'registry.db'}")
    with database.write() as connection:
        migrate(connection, "0001", down=True)
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'")).scalar() == 0
        assert connection.execute(text("SELECT count(*) FROM audit")).scalar() == len(before)
    database.close()
    with opened(tmp_path) as registry:  # brings it up again
        assert registry.active() == [edit] and registry.log() == before and registry.verify().ok
    with closing(sqlite3.connect(tmp_path / "registry.db")) as raw, pytest.raises(sqlite3.IntegrityError):
        raw.execute("DELETE FROM audit")


def test_all_the_way_down_and_up_makes_an_empty_store(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.upgrade()
    with database.write() as connection:
        migrate(connection, "base", down=True)
    database.upgrade()
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit")).scalar() == 0
    database.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    monkeypatch.setenv("CATECHISM_FAILPOINT", "before_commit:raise")
    with pytest.raises(BaseException, match="before_commit"):
        database.upgrade()
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0
    database.close()


@pytest.mark.parametrize("found", ["0004", "", "x"])
def test_a_newer_schema_is_left_alone(tmp_path: Path, found: str) -> None:
    opened(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "registry.db")) as raw:
        raw.execute("UPDATE alembic_version SET version_num = ?", (found,))
        raw.commit()
    with pytest.raises(SchemaMismatch, match="pip install -U catechism"):
        opened(tmp_path)


def test_tables_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with closing(sqlite3.connect(tmp_path / "home" / "registry.db")) as raw:
        raw.execute("CREATE TABLE audit (x)")
        raw.commit()
    with pytest.raises(SchemaMismatch, match="unknown make"):
        opened(tmp_path / "home")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(RegistryError, match="not a folder"):
        opened(tmp_path / "home")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "registry.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreDamaged, match="backup"):
        opened(tmp_path)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite"])
def test_an_unknown_kind_of_database_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(RegistryError, match="sqlite"):
        opened(tmp_path, url=url)


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtra, match="pip install psycopg"):
        opened(tmp_path, url="postgresql+psycopg://nobody@localhost/x")


def unchanged(registry: Registry, kind: type[CatechismError], message: str) -> None:
    """Adding is refused by name, and nothing of it is left."""
    before = registry.log()
    with pytest.raises(kind, match=message):
        registry.add_edit(draft("Spain", "Seville", why="long " * 50_000))
    assert registry.log() == before and len(registry.edits()) == 1
    assert list((registry.home / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "code, kind",
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EROFS, StoreReadOnly), (errno.EACCES, StoreReadOnly)],
)
@pytest.mark.parametrize("call", ["fsync", "mkdir", "chmod", "rename", "open"])
def test_a_full_or_read_only_disk_is_named_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[CatechismError], call: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    with opened(tmp_path) as registry:
        edit = promoted(registry)
        with monkeypatch.context() as patch:
            patch.setattr(store_module.os, call, refuse)
            with pytest.raises(kind, match="Nothing was changed"):
                registry.add_edit(draft("Spain", "Seville"))
        registry.sweep()
        assert [e.id for e in registry.edits()] == [edit.id] and registry.verify().ok
        assert list((tmp_path / "store" / "tmp").iterdir()) == []
        registry.add_edit(draft("Spain", "Seville"))


def test_a_database_without_room_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        promoted(registry)
        engine = registry._room.database.engine
        database_module.event.listen(engine, "begin", _no_room)
        unchanged(registry, StoreFull, "Nothing was changed")
        database_module.event.remove(engine, "begin", _no_room)
        registry._room.database.close()
        assert registry.verify().ok


def _no_room(connection: database_module.Connection) -> None:
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_a_read_only_database_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        promoted(registry)
        engine = registry._room.database.engine
        database_module.event.listen(engine, "begin", _read_only)
        unchanged(registry, StoreReadOnly, "Make it writable")
        database_module.event.remove(engine, "begin", _read_only)
        registry._room.database.close()


def _read_only(connection: database_module.Connection) -> None:
    connection.exec_driver_sql("PRAGMA query_only = ON")


def test_a_database_that_somebody_holds_is_named_and_still_read(tmp_path: Path) -> None:
    with opened(tmp_path, timeout_s=0.05) as registry:
        promoted(registry)
        with closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            unchanged(registry, StoreBusy, "run this one again")
            other.execute("ROLLBACK")
        registry.add_edit(draft("Spain", "Seville"))


def test_a_policy_names_every_class() -> None:
    with pytest.raises(UsageError, match="safety"):
        Policy({risk: 1 for risk in Risk if risk is not Risk.SAFETY})


def test_a_damaged_private_key_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        registry.add_edit(draft())
        (tmp_path / "keys" / "ed25519.pem").write_bytes(b"x")
        with pytest.raises(StoreDamaged, match="ed25519"):
            registry.add_edit(draft("Spain", "Seville"))
        validated(registry)  # the edit is there already, so nothing has to be signed
        registry.promote(registry.edits()[0].id, "ann")
        registry.rollback(to_epoch=0, by="ann", reason="works without a key")


def test_a_damaged_artifact_is_replaced_when_it_is_published_again(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        edit = registry.add_edit(draft())
        registry.export([edit.id], tmp_path / "x.tar")
        folder = tmp_path / "store" / "sha256" / edit.digest[7:9] / edit.digest[7:]
        (folder / "training.jsonl").chmod(0o644)
        (folder / "training.jsonl").write_bytes(b"")
        assert not registry.verify().ok
        registry.import_(tmp_path / "x.tar", "bo")
        assert registry.verify().ok and len(list((tmp_path / "store" / "quarantine").iterdir())) == 1


def test_an_envelope_is_that_of_dsse(tmp_path: Path) -> None:
    """The encoding that is signed is the one of the DSSE protocol, written out by hand."""
    keys = Keys(tmp_path)
    envelope = json.loads(keys.sign("http://example.com/HelloWorld", b"hello world"))
    key = keys.public(envelope["signatures"][0]["keyid"])
    assert key is not None and base64.b64decode(envelope["payload"]) == b"hello world"
    signed = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)


@pytest.mark.parametrize(
    "envelope, said",
    [(b"", "not a DSSE"), (b"[]", "not a DSSE"), (b'{"payload":1}', "not a DSSE"),
     (b'{"payloadType":"t","payload":"?","signatures":[{"keyid":"a","sig":"b"}]}', "base64"),
     (b'{"payloadType":"t","payload":"","signatures":[{"keyid":"a","sig":""}]}', "is for 't'"),
     (b'{"payloadType":"%s","payload":"","signatures":[{"keyid":"../x","sig":""}]}' % EDIT_TYPE.encode(), "not known")],
)  # fmt: skip
def test_an_envelope_that_is_none_is_named(tmp_path: Path, envelope: bytes, said: str) -> None:
    assert said in (check(EDIT_TYPE, envelope, Keys(tmp_path).public)[1] or "")


def test_a_report_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        edit = registry.add_edit(draft())
        with pytest.raises(UsageError, match="finite"):
            registry.add_report(edit.id, {"x": float("inf")}, PASS)
        with pytest.raises(UsageError, match="reason"):
            registry.reject(edit.id, "bo", " ")
