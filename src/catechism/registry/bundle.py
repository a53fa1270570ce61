"""Edits on their way to another store: a folder or a tar with artifacts and public keys, proven again on arrival.

    bundle.json                        the schema, and the digests of the edits in their order
    keys/<key id>.pub                  the keys that signed them
    artifacts/<digest>/<file>          each artifact as it is in the store

Nothing else can be in it. Names are held against these patterns and never joined to a path before.
"""

from __future__ import annotations

import json
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from catechism.errors import BadBundle, CatechismError, StoreDamaged, UsageError
from catechism.hashing import PREFIX, canonical_json
from catechism.registry import read
from catechism.registry.destruction import refuse
from catechism.registry.manifest import person
from catechism.registry.prove import content_problem, read_manifest, sealed_problems, signature_problem
from catechism.registry.records import EditVersion
from catechism.registry.room import Room
from catechism.registry.seal import register
from catechism.registry.signing import key_id, pem_of, read_public, signer_of
from catechism.registry.store import NAMES, SIGNATURE, Store, read_plain, remove, sync_folder, write_synced
from catechism.registry.tables import edit_version

SCHEMA = "catechism.bundle/1"
INDEX = "bundle.json"
MAX_FILES = 10_000
MAX_FILE_BYTES = 256 << 20
MAX_BYTES = 2 << 30
_AGAIN = "Nothing was imported. Ask for a new export, made with `catechism export`."
_NAME = re.compile(
    rf"{re.escape(INDEX)}|keys/[0-9a-f]{{64}}\.pub"
    rf"|artifacts/[0-9a-f]{{64}}/(?:{'|'.join(map(re.escape, sorted(NAMES)))})"
)


def export(room: Room, refs: Sequence[str], path: Path) -> Path:
    """Write edits to a new folder, or to a tar where the name ends in ``.tar``. All of it is there, or nothing."""
    if not refs:
        raise UsageError("Nothing to export. Name at least one edit.")
    if path.exists():
        raise UsageError(f"{path} is there already. Name a path that is not.")
    with room.database.read() as connection:
        edits = list({(e := read.find(connection, ref)).id: e for ref in refs}.values())
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(room, edits, beside, as_tar=path.suffix == ".tar")
        beside.rename(path)
    finally:
        if beside.exists():
            remove(beside)
    sync_folder(path.parent)
    return path


def _write(room: Room, edits: Sequence[EditVersion], target: Path, *, as_tar: bool) -> None:
    contents = dict(_contents(room, edits))
    if as_tar:
        with target.open("xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, BytesIO(content))
        return
    for name, content in contents.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        write_synced(target / name, content)


def _contents(room: Room, edits: Sequence[EditVersion]) -> Iterator[tuple[str, bytes]]:
    yield INDEX, canonical_json({"schema": SCHEMA, "edits": [edit.digest for edit in edits]})
    for edit in edits:
        if edit.sealed:
            raise refuse(edit, "exported")
        if wrong := sealed_problems(room, edit):
            raise StoreDamaged(f"{edit.id} does not prove itself: {'; '.join(wrong)}. See `catechism verify`.")
        folder = room.store.path(edit.digest)
        identity = signer_of((folder / SIGNATURE).read_bytes()) or ""
        key = room.keys.public(identity)
        if key is not None:
            yield f"keys/{identity}.pub", pem_of(key)
        for file in sorted(folder.iterdir()):
            yield f"artifacts/{folder.name}/{file.name}", file.read_bytes()


@dataclass(frozen=True, slots=True)
class _Arrived:
    """An artifact of a bundle that has proven itself: its digest, its folder, the key that signed it."""

    digest: str
    folder: Path
    key: Ed25519PublicKey


def import_(room: Room, path: Path, by: str) -> list[EditVersion]:
    """Take over the edits of a bundle as drafts, all or none, after proving everything again."""
    by = person("the name of who does it", by)
    with room.store.publishing() as folder:
        try:
            _unpack(path, folder)
            arrived = _prove(folder)
        except (BadBundle, OSError):
            raise
        except (CatechismError, tarfile.TarError, ValueError) as problem:
            raise BadBundle(f"{path}: {problem} {_AGAIN}") from problem
        manifests = [read_manifest(one.folder) for one in arrived]
        for one in arrived:
            room.keys.add(one.key, imported=key_id(one.key) not in _own(room))
            room.store.publish(one.folder, one.digest)
        with room.writing(by) as writer:
            ids: list[str] = []
            for one, manifest in zip(arrived, manifests, strict=True):
                identity = str(manifest["edit"])
                ids.append(identity)
                known = read.versions(writer.connection, edit_version.c.id == identity)
                if not known:
                    register(writer, manifest, one.digest, room.store.path(one.digest), "edit.import")
            return [read.find(writer.connection, identity) for identity in ids]


def _own(room: Room) -> set[str]:
    return {path.stem for path in room.keys.folder.glob("*.pub")}


def _unpack(path: Path, folder: Path) -> None:
    """Copy a bundle into an empty folder, name by name. Links, other kinds of files and other names are refused."""
    names: set[str] = set()
    total = 0
    for name, size, content in _members(path):
        if not _NAME.fullmatch(name):
            raise BadBundle(f"{path}: the member {name[:100]!r} has no place in a bundle. {_AGAIN}")
        if name in names:
            raise BadBundle(f"{path}: the member {name!r} is there twice. {_AGAIN}")
        names.add(name)
        total += size
        if size > MAX_FILE_BYTES or total > MAX_BYTES or len(names) > MAX_FILES:
            raise BadBundle(
                f"{path}: {name} makes it {len(names)} files and {total} bytes; allowed are {MAX_FILES} files of "
                f"{MAX_FILE_BYTES} bytes, {MAX_BYTES} in all. Export fewer edits at a time."
            )
        with content() as file:
            raw = file.read(size + 1)
        if len(raw) != size:
            raise BadBundle(f"{path}: {name} is cut off or grew while it was read. {_AGAIN}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_synced(folder / name, raw)


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name, size and content of everything in a bundle."""
    if path.is_dir():
        for found in sorted(path.rglob("*")):
            mode, name = found.lstat().st_mode, found.relative_to(path).as_posix()
            if stat.S_ISREG(mode):
                yield name, found.lstat().st_size, lambda found=found: found.open("rb")
            elif not stat.S_ISDIR(mode):
                raise BadBundle(f"{path}: {name!r} is a link or no ordinary file. {_AGAIN}")
        return
    if not path.is_file():
        raise BadBundle(f"{path}: there is no such file or folder. Check the path.")
    with tarfile.open(path, mode="r:") as tar:
        for member in tar:
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
                raise BadBundle(f"{path}: {member.name[:100]!r} is a link, a folder or no ordinary file. {_AGAIN}")
            yield member.name, member.size, lambda member=member: tar.extractfile(member) or BytesIO()


def _prove(folder: Path) -> list[_Arrived]:
    """Everything that a bundle says about itself, held against what is in it."""
    try:
        index = json.loads(read_plain(folder / INDEX) or b"")
        digests = [str(digest) for digest in index["edits"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadBundle(f"{INDEX} is missing or cannot be read. {_AGAIN}") from None
    if index.get("schema") != SCHEMA:
        raise BadBundle(f"The schema is {str(index.get('schema'))[:50]!r}, this release reads {SCHEMA!r}. Upgrade it.")
    there = {PREFIX + found.name for found in (folder / "artifacts").glob("*")}
    if there != set(digests) or len(digests) != len(there):
        raise BadBundle(f"{INDEX} lists {len(digests)} edits, the bundle has {len(there)} others or more. {_AGAIN}")
    keys = {found.stem: read_public(found.read_bytes()) for found in (folder / "keys").glob("*.pub")}
    for identity, key in keys.items():
        if key is None or key_id(key) != identity:
            raise BadBundle(f"keys/{identity}.pub holds another key or none. {_AGAIN}")
    return [_prove_artifact(digest, folder, keys) for digest in digests]


def _prove_artifact(digest: str, root: Path, keys: dict[str, Ed25519PublicKey | None]) -> _Arrived:
    folder = root / "artifacts" / digest.removeprefix(PREFIX)
    wrong = Store(root).problems(digest, folder)
    if not wrong and (problem := signature_problem(folder, keys.get)):
        wrong = [problem]
    key = keys.get(signer_of(read_plain(folder / SIGNATURE) or b"") or "")
    if wrong or key is None:
        raise BadBundle(f"artifacts/{folder.name}: {'; '.join(wrong)}. {_AGAIN}")
    if problem := content_problem(folder, digest):
        raise BadBundle(f"artifacts/{folder.name}: {problem}. {_AGAIN}")
    return _Arrived(digest, folder, key)
