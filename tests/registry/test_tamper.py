"""Whatever is changed behind the registry's back, `verify` names it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from catechism.errors import StoreDamaged
from catechism.registry import EditVersion, Registry
from catechism.registry.audit import START, entry_hash
from catechism.registry.times import text
from catechism.types import Risk
from tests.registry.sample import PASS, delta, draft, opened, promoted, validated


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something of everything, closed; tests work on copies."""
    home = tmp_path_factory.mktemp("sound") / "home"
    with opened(home) as registry:
        old = promoted(registry)
        promoted(registry, object="Nice", supersedes=old.id)
        spain = validated(registry, "Spain", "Seville", risk=Risk.HIGH, delta=delta())
        registry.approve(spain.id, "bo", comment="fine")
        registry.promote(spain.id, "ann")
        registry.rollback(spain.id, by="ann", reason="no")
        registry.add_edit(draft("Italy", "Milan"))
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "home")
    return tmp_path / "home"


@contextmanager
def behind(home: Path) -> Iterator[sqlite3.Connection]:
    """The database as somebody has it who knows how to drop triggers."""
    with closing(sqlite3.connect(home / "registry.db")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        connection.commit()


def problems(home: Path) -> dict[str, str]:
    with opened(home) as registry:
        return {problem.object: problem.problem for problem in registry.verify().problems}


def edit_of(home: Path, subject: str) -> EditVersion:
    with opened(home) as registry:
        return registry.edits(subject=subject)[-1]


def folder_of(home: Path, edit: EditVersion) -> Path:
    return home / "store" / "sha256" / edit.digest[7:9] / edit.digest[7:]


def test_an_untouched_store_has_no_problem(home: Path) -> None:
    assert problems(home) == {}


@pytest.mark.parametrize("table", ["audit", "audit_checkpoint", "transition", "evaluation", "approval", "report",
                                   "composition", "epoch"])  # fmt: skip
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET rowid = rowid"])
def test_history_refuses_to_be_changed(home: Path, table: str, statement: str) -> None:
    with (
        closing(sqlite3.connect(home / "registry.db")) as connection,
        pytest.raises(sqlite3.IntegrityError, match=f"{table} can only be added to"),
    ):
        connection.execute(statement.format(table))


@pytest.mark.parametrize(
    "statement, named",
    [("UPDATE audit SET actor = 'eve' WHERE seq = 4", "audit entry 4"),
     ("UPDATE audit SET at = at + 1 WHERE seq = 4", "audit entry 4"),
     ("UPDATE audit SET body = '{' WHERE seq = 4", "audit entry 4"),
     ("UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 5) WHERE seq = 4", "audit entry 4"),
     ("DELETE FROM audit WHERE seq = 4", "audit entry 5"),
     ("DELETE FROM audit WHERE seq = 1", "audit entry 2"),
     ("UPDATE audit SET seq = -seq WHERE seq IN (4, 5); UPDATE audit SET seq = 9 + seq WHERE seq < 0", "audit entry 4"),
     ("DELETE FROM audit WHERE seq > 12", "audit entry"),
     ("DELETE FROM audit; DELETE FROM audit_checkpoint", "audit entry"),
     ("UPDATE audit_checkpoint SET hash = 'x'", "checkpoint"),
     ("UPDATE audit_checkpoint SET envelope = '{}'", "checkpoint"),
     ("UPDATE fact SET body = replace(body, 'Milan', 'Turin')", "fact F"),
     ("UPDATE fact SET subject_key = 'x' WHERE subject_key = 'italy'", "fact F"),
     ("UPDATE edit_version SET risk = 'low' WHERE risk = 'high'", "edit E"),
     ("UPDATE edit_version SET author = 'eve' WHERE risk = 'high'", "edit E"),
     ("UPDATE edit_version SET state = 'production' WHERE state = 'draft'", "edit E"),
     ("UPDATE edit_version SET state = 'rolled_back' WHERE state = 'production'", "edit E"),
     ("UPDATE edit_version SET digest = 'sha256:' || substr(digest, 72) WHERE state = 'draft'", "edit E"),
     ("DELETE FROM edit_version WHERE state = 'draft'", "edit E"),
     ("UPDATE report SET body = '{}' WHERE rowid = 1", "report sha256:"),
     ("UPDATE evaluation SET verdict = '{}' WHERE id = 1", "evaluation 1"),
     ("UPDATE approval SET approver = 'eve'", "approval 1"),
     ("UPDATE approval SET roles = '[\"x\"]'", "approval 1"),
     ("UPDATE transition SET \"to\" = 'production' WHERE id = 1", "edit E"),
     ("DELETE FROM transition WHERE id = 1", "edit E"),
     ("UPDATE composition SET entries = '[]'", "composition sha256:"),
     ("UPDATE epoch SET cid = (SELECT cid FROM epoch WHERE number = 0) WHERE number = 2", "epoch 2"),
     ("UPDATE epoch SET actor = 'eve' WHERE number = 2", "epoch 2"),
     ("DELETE FROM epoch WHERE number = 2", "epoch 3"),
     ("DELETE FROM epoch WHERE number = 4", "epoch 4"),
     ("UPDATE head SET epoch = 1", "head"),
     ("INSERT INTO dataset VALUES ('x', 1, 1)", "dataset x"),
     ("DELETE FROM dataset", "dataset sha256:")],
)  # fmt: skip
def test_a_changed_table_is_named(home: Path, statement: str, named: str) -> None:
    with behind(home) as connection:
        connection.executescript(statement)
    found = problems(home)
    assert any(name.startswith(named) for name in found), found


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)


def truncate(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def delete(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    copy = path.parents[4] / f"copy of {path.name}"
    shutil.copyfile(path, copy)
    path.unlink()
    path.symlink_to(copy)


@pytest.mark.parametrize("change", [flip, truncate, delete, link])
@pytest.mark.parametrize("name", ["manifest.json", "signature.json", "catechism.json", "training.jsonl",
                                  "delta.safetensors"])  # fmt: skip
def test_a_changed_artifact_is_named(home: Path, name: str, change: Callable[[Path], None]) -> None:
    edit = edit_of(home, "Spain")
    folder = folder_of(home, edit)
    folder.chmod(0o755)
    change(folder / name)
    found = problems(home)
    assert (
        set(found) == {f"edit {edit.id}"} and ("sign" if name == "signature.json" else name) in found[f"edit {edit.id}"]
    )


def test_a_missing_folder_and_a_file_too_many_are_named(home: Path) -> None:
    spain, italy = edit_of(home, "Spain"), edit_of(home, "Italy")
    folder_of(home, italy).chmod(0o755)
    (folder_of(home, italy) / "adapter_model.bin").write_bytes(b"\x80")
    folder_of(home, spain).chmod(0o755)
    shutil.rmtree(folder_of(home, spain))
    found = problems(home)
    assert found == {
        f"edit {spain.id}": "its folder is missing",
        f"edit {italy.id}": "adapter_model.bin does not belong to it",
    }


def test_a_signature_by_another_key_is_named(home: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "other") as other:
        foreign = other.add_edit(draft("Italy", "Milan"))
        signature = folder_of(tmp_path / "other", foreign) / "signature.json"
        path = folder_of(home, edit_of(home, "Italy")) / "signature.json"
        path.chmod(0o644)
        path.write_bytes(signature.read_bytes())
    assert list(problems(home)) == [f"edit {edit_of(home, 'Italy').id}"]


def test_a_changed_public_key_is_named(home: Path) -> None:
    key = next((home / "keys").glob("*.pub"))
    key.write_text("-----BEGIN PUBLIC KEY-----\n")
    found = problems(home)
    assert f"key {key.stem}" in found and any(name.startswith("edit E") for name in found)


def test_a_history_that_was_written_anew_does_not_fit_the_signed_checkpoint(home: Path) -> None:
    """Every hash is right again; only the signature shows that it is another history."""
    with behind(home) as connection:
        previous = START
        rows = connection.execute("SELECT seq, at, actor, action, object, body FROM audit ORDER BY seq").fetchall()
        for seq, at, actor, action, object, body in rows:
            actor = "eve" if actor == "bo" else actor
            entry = {"seq": seq, "at": text(at), "actor": actor, "action": action, "object": object,
                     "body": json.loads(body)}  # fmt: skip
            previous = entry_hash(previous, entry)
            connection.execute("UPDATE audit SET actor = ?, hash = ? WHERE seq = ?", (actor, previous, seq))
        connection.execute("UPDATE approval SET approver = 'eve'")
        connection.execute("DELETE FROM audit_checkpoint")
    found = problems(home)
    assert any("checkpoint file" in problem for problem in found.values()), found


def test_a_store_with_a_cut_audit_takes_rollbacks_and_nothing_else(home: Path) -> None:
    with behind(home) as connection:
        connection.execute("DELETE FROM audit WHERE seq > 12")
    with opened(home) as registry:
        assert registry.damage and registry.edits()
        active = registry.active()[0]
        for act in (
            lambda: registry.add_edit(draft("Peru", "Cusco")),
            lambda: registry.add_report(active.id, {"again": 1}, PASS),
            lambda: registry.reject(edit_of(home, "Italy").id, "bo", "no"),
        ):
            with pytest.raises(StoreDamaged, match="except rollbacks"):
                act()
        registry.rollback(active.id, by="ann", reason="in any case")
        registry.rollback(to_epoch=0, by="ann", reason="altogether")
        assert registry.active() == []
    with opened(home) as registry:
        assert registry.damage, "no checkpoint was signed over the damage"


def test_rollback_needs_no_key_and_no_artifact(home: Path) -> None:
    with opened(home) as registry:
        shutil.rmtree(home / "keys")
        shutil.rmtree(home / "store")
        assert registry.rollback(registry.active()[0].id, by="ann", reason="all is lost").number == 5


def test_a_damaged_composition_does_not_keep_from_going_back(home: Path) -> None:
    with behind(home) as connection:
        connection.execute("UPDATE composition SET entries = '[]' WHERE cid = (SELECT cid FROM epoch WHERE number = 4)")
    with opened(home) as registry:
        assert registry.rollback(to_epoch=0, by="ann", reason="start again").number == 5
        assert registry.active() == []


def test_the_checkpoint_is_signed_when_the_store_is_closed(home: Path) -> None:
    with closing(sqlite3.connect(home / "registry.db")) as connection:
        last, signed = connection.execute(
            "SELECT (SELECT max(seq) FROM audit), max(seq) FROM audit_checkpoint"
        ).fetchone()
    assert last == signed
    assert json.loads((home / "checkpoint.json").read_bytes())["signatures"]


def test_a_long_history_is_signed_on_the_way(tmp_path: Path) -> None:
    registry: Registry = opened(tmp_path)
    edit = registry.add_edit(draft())
    for number in range(100):
        registry.add_report(edit.id, {"number": number}, PASS)
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        assert connection.execute("SELECT seq FROM audit_checkpoint").fetchall() == [(100,)]
    registry.close()
