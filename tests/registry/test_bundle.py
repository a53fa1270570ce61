"""Export and import: what goes out comes in as a draft, and what was changed on the way does not."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from catechism.errors import BadBundle, CatechismError, UsageError
from catechism.hashing import canonical_json, digest_bytes
from catechism.registry import State, bundle
from tests.registry.sample import delta, draft, opened, promoted


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder that was exported: a promoted edit with a delta, and a draft without."""
    with opened(tmp_path / "from") as registry:
        edit = promoted(registry, delta=delta())
        return registry.export([edit.id, registry.add_edit(draft("Spain", "Seville")).id, edit.id], tmp_path / "bundle")


def tar_of(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, file.relative_to(folder).as_posix())
    return path


def refused(path: Path, home: Path) -> str:
    """The message of a refused import, after which nothing is in the store."""
    with opened(home) as registry:
        before = registry.log()
        with pytest.raises(BadBundle) as error:
            registry.import_(path, "bo")
        assert registry.edits() == [] and registry.log() == before
        assert [*(home / "store" / "tmp").iterdir(), *(home / "store").glob("sha256/??/*")] == []
        assert registry.verify().ok
    return str(error.value)


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_what_goes_out_comes_in_as_drafts(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / "from") as registry:
        sent = [promoted(registry, delta=delta()), registry.add_edit(draft("Spain", "Seville"))]
        path = registry.export([edit.id for edit in sent], tmp_path / name)
    with opened(tmp_path / "to") as registry:
        arrived = registry.import_(path, "bo")
        assert [(e.id, e.digest, e.state, e.author) for e in arrived] == [
            (e.id, e.digest, State.DRAFT, "ann") for e in sent
        ]
        loaded = registry.delta(sent[0].id)
        assert loaded is not None and loaded.digest == sent[0].artifact
        assert registry.catechism(sent[1].id) == draft("Spain", "Seville").catechism
        before = registry.log()
        assert before[0].actor == "bo" and before[0].action == "edit.import"
        assert registry.import_(path, "bo") == arrived and registry.log() == before
        assert registry.verify().ok
        assert registry.export([sent[0].id], tmp_path / "on.tar").is_file()  # and on to the next


def test_an_export_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    with opened(tmp_path / "from") as registry:
        edit = registry.add_edit(draft())
        first, second = (registry.export([edit.id], tmp_path / name).read_bytes() for name in ("a.tar", "b.tar"))
    assert first == second


def test_an_export_replaces_nothing_and_needs_an_edit(tmp_path: Path) -> None:
    with opened(tmp_path / "from") as registry:
        edit = registry.add_edit(draft())
        (tmp_path / "there").write_text("mine")
        with pytest.raises(UsageError, match="there already"):
            registry.export([edit.id], tmp_path / "there")
        with pytest.raises(UsageError, match="at least one"):
            registry.export([], tmp_path / "none")
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "none").exists()


@pytest.mark.parametrize("as_tar", [False, True])
@pytest.mark.parametrize("pattern", ["artifacts/*/manifest.json", "artifacts/*/signature.json",
                                     "artifacts/*/catechism.json", "artifacts/*/training.jsonl",
                                     "artifacts/*/delta.safetensors", "keys/*.pub", "bundle.json"])  # fmt: skip
def test_a_flipped_byte_is_refused(tmp_path: Path, exported: Path, pattern: str, as_tar: bool) -> None:
    path = next(iter(sorted(exported.glob(pattern))))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert "Nothing was imported" in refused(
        tar_of(exported, tmp_path / "x.tar") if as_tar else exported, tmp_path / "to"
    )


@pytest.mark.parametrize("pattern", ["artifacts/*/manifest.json", "artifacts/*/signature.json",
                                     "artifacts/*/training.jsonl", "keys/*.pub", "bundle.json"])  # fmt: skip
def test_a_missing_file_is_refused(tmp_path: Path, exported: Path, pattern: str) -> None:
    next(iter(sorted(exported.glob(pattern)))).unlink()
    refused(exported, tmp_path / "to")


def test_a_manifest_that_was_changed_along_with_its_name_is_refused(tmp_path: Path, exported: Path) -> None:
    """Hashes and names fit again; the signature does not."""
    folder = next(exported.glob("artifacts/*"))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    raw = canonical_json({**manifest, "created": "2020-01-01T00:00:00.000000Z"})
    (folder / "manifest.json").write_bytes(raw)
    new = folder.rename(folder.with_name(digest_bytes(raw).removeprefix("sha256:")))
    index = json.loads((exported / "bundle.json").read_bytes())
    digests = ["sha256:" + new.name if d.endswith(folder.name) else d for d in index["edits"]]
    (exported / "bundle.json").write_bytes(canonical_json({**index, "edits": digests}))
    assert "the signature is for other bytes" in refused(exported, tmp_path / "to")


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"schema":"catechism.bundle/2","edits":[]}', b"\xff",
                                   b'{"schema":"catechism.bundle/1","edits":[]}'])  # fmt: skip
def test_an_index_that_is_none_is_refused(tmp_path: Path, exported: Path, index: bytes) -> None:
    (exported / "bundle.json").write_bytes(index)
    refused(exported, tmp_path / "to")


NAMES = (
    "../x", "/etc/x", "artifacts/../../x", "artifacts/" + "a" * 64 + "/../x", "keys/x.pub", "a\0b", "",
    "artifacts/" + "a" * 64 + "/adapter_model.bin", "artifacts/" + "A" * 64 + "/manifest.json", "bundle.json/",
    "./bundle.json", "artifacts\\" + "a" * 64 + "\\manifest.json", "bundle.json\n", "C:/x",
    "keys/" + "a" * 64 + ".pub/..",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, exported: Path, name: str) -> None:
    path = tar_of(exported, tmp_path / "x.tar")
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    refused(path, tmp_path / "to")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "from", "to", "x.tar"]


KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, exported: Path, kind: bytes) -> None:
    name = "artifacts/" + "a" * 64 + "/manifest.json"
    path = tar_of(exported, tmp_path / "x.tar")
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/hostname"
        tar.addfile(member)
    assert "no ordinary file" in refused(path, tmp_path / "to")


def test_a_link_in_a_folder_is_refused(tmp_path: Path, exported: Path) -> None:
    path = next(exported.glob("artifacts/*/training.jsonl"))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "no ordinary file" in refused(exported, tmp_path / "to")


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, exported: Path) -> None:
    path = tar_of(exported, tmp_path / "x.tar")
    with tarfile.open(path, "a") as tar:
        tar.add(exported / "bundle.json", "bundle.json")
    assert "twice" in refused(path, tmp_path / "to")


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_FILE_BYTES", "MAX_BYTES"])
def test_a_bundle_that_is_too_large_is_refused(
    tmp_path: Path, exported: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, limit, 3)
    assert "fewer edits" in refused(exported, tmp_path / "to")


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:700], lambda raw: b"", lambda raw: b"\x1f\x8b" + raw, lambda raw: b"x" * 2000]
)
def test_what_is_no_tar_is_refused(tmp_path: Path, exported: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tar_of(exported, tmp_path / "x.tar")
    path.write_bytes(damage(path.read_bytes()))
    refused(path, tmp_path / "to")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing.tar", tmp_path / "to")


def test_an_imported_key_signs_no_checkpoint_here(tmp_path: Path, exported: Path) -> None:
    with opened(tmp_path / "to") as registry:
        registry.import_(exported, "bo")
    own = next((tmp_path / "from" / "keys").glob("*.pub"))
    assert (tmp_path / "to" / "keys" / "imported" / own.name).is_file()
    (tmp_path / "to" / "checkpoint.json").write_bytes((tmp_path / "from" / "checkpoint.json").read_bytes())
    with opened(tmp_path / "to") as registry:
        assert "not known" in registry.damage[0].problem


def test_an_export_of_a_damaged_edit_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "from") as registry:
        edit = registry.add_edit(draft())
        path = tmp_path / "from" / "store" / "sha256" / edit.digest[7:9] / edit.digest[7:] / "training.jsonl"
        path.chmod(0o644)
        path.write_bytes(b"")
        with pytest.raises(CatechismError, match="does not prove itself"):
            registry.export([edit.id], tmp_path / "x.tar")
    assert not list(tmp_path.glob("*x.tar*"))
