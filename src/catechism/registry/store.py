"""The folder of sealed artifacts: written beside, synced, moved into place in one step, never changed again.

    store/sha256/ab/<digest>/    one artifact; its name is the sha256 of its manifest, which names all other files
    store/tmp/                   what is being written
    store/quarantine/            damaged artifacts that were replaced by sound ones
    store/lock                   held while something is published

Only names in `NAMES` can be in an artifact, none of which can hold code that runs when it is opened.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import uuid4

from catechism.errors import StoreDamaged
from catechism.hashing import PREFIX, digest_bytes, digest_file
from catechism.registry.failpoints import failpoint
from catechism.registry.records import Sweep
from catechism.types import JSON

if os.name == "posix":
    import fcntl

MANIFEST, SIGNATURE = "manifest.json", "signature.json"
CATECHISM, TRAINING, DELTA = "catechism.json", "training.jsonl", "delta.safetensors"
NAMES = frozenset({MANIFEST, SIGNATURE, CATECHISM, TRAINING, DELTA})

TMP_AGE_S = 3600.0  # leftovers that old are taken away even while others publish
ORPHAN_AGE_S = 24 * 3600.0
_ZEROS = 1 << 20  # bytes that are overwritten at a time


def write_synced(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a new file and wait until it is on the disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's list of names is on the disk. Windows has no such call."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(folder: Path) -> None:
    """Take a folder away, sealed or not."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    folder.chmod(0o755)
    shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Store:
    """The artifacts below one folder."""

    root: Path

    def create(self) -> None:
        """Make the folders that are not there yet."""
        for folder in (self.root / "sha256", self.root / "tmp", self.root / "quarantine"):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the artifact of a digest is, or would be."""
        name = digest.removeprefix(PREFIX)
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise StoreDamaged(f"{digest[:100]!r} is no sha256 digest. See `catechism verify`.")
        return self.root / "sha256" / name[:2] / name

    def digests(self) -> Iterator[str]:
        """Digests of all artifacts, by their folders' names."""
        for folder in sorted(self.root.glob("sha256/??/*")):
            yield PREFIX + folder.name

    @contextmanager
    def publishing(self) -> Iterator[Path]:
        """A new folder to write an artifact in. Until the end of the block no sweep touches it or what it became.

        The database has to name what was published before the block ends. Whatever happens the folder is gone then.
        """
        folder = self.root / "tmp" / uuid4().hex
        with _lock(self.root / "lock", exclusive=False):
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                if folder.exists():
                    remove(folder)

    def publish(self, folder: Path, digest: str) -> Path:
        """Move a complete folder to its place. A sound artifact that is there stays; a damaged one gives way."""
        for path in folder.iterdir():
            path.chmod(0o444)
        sync_folder(folder)
        failpoint("after_tmp_write")
        place = self.path(digest)
        if place.exists():
            if not self.problems(digest):
                return place
            place.chmod(0o755)
            place.rename(self.root / "quarantine" / f"{place.name}.{uuid4().hex}")
        if not place.parent.exists():
            place.parent.mkdir(exist_ok=True)
            sync_folder(place.parent.parent)
        folder.rename(place)
        place.chmod(0o555)
        sync_folder(place.parent)
        failpoint("after_rename")
        return place

    def destroy(self, digest: str, names: Set[str]) -> None:
        """Overwrite files of an artifact and take them away, those of damaged copies in the quarantine too.

        What is gone already is no error, so that a second call ends what a killed one began.
        """
        place = self.path(digest)
        for folder in (place, *sorted((self.root / "quarantine").glob(f"{place.name}.*"))):
            found = [folder / name for name in sorted(names) if (folder / name).is_file()]
            if not found:
                continue
            folder.chmod(0o755)
            for path in found:
                _overwrite(path)
                path.unlink()
            folder.chmod(0o555)
            sync_folder(folder)

    def problems(self, digest: str, folder: Path | None = None, *, gone: Set[str] = frozenset()) -> list[str]:
        """What about an artifact does not match its digest; nothing if it is sound.

        Args:
            digest: its name.
            folder: where it is; None for its place in the store.
            gone: files that were destroyed and must not be there any more.
        """
        folder = self.path(digest) if folder is None else folder
        if not folder.is_dir() or folder.is_symlink():
            return ["its folder is missing"]
        raw = read_plain(folder / MANIFEST)
        if raw is None:
            return [f"{MANIFEST} is missing"]
        if digest_bytes(raw) != digest:
            return [f"{MANIFEST} is {digest_bytes(raw)}, not {digest}"]
        found: list[str] = []
        listed = {**files_of(raw), MANIFEST: (digest, len(raw)), SIGNATURE: None}
        for name in sorted({*listed, *os.listdir(folder)}):
            if name not in listed or name not in NAMES:
                found.append(f"{name} does not belong to it")
            elif name in gone:
                found += [f"{name} is there, and was sealed"] if (folder / name).exists() else []
            elif (expected := listed[name]) is None:
                found += [] if read_plain(folder / name) is not None else [f"{name} is missing"]
            elif not _is_plain(folder / name):
                found.append(f"{name} is missing")
            elif (got := digest_file(folder / name)) != expected[0] or (folder / name).stat().st_size != expected[1]:
                found.append(f"{name} is {got}, the manifest says {expected[0]}")
        return found

    def sweep(self, known: Callable[[], Set[str]], *, now_s: float) -> Sweep:
        """Take away what killed processes left: unfinished folders, and artifacts that no row names.

        While another process publishes, only what is old goes; otherwise everything.

        Args:
            known: asks the database for the digests that it names; called after the lock is held.
            now_s: seconds since 1970.
        """
        with _lock(self.root / "lock", exclusive=True) as is_alone:
            tmp = [p for p in sorted((self.root / "tmp").iterdir()) if is_alone or _age(p, now_s) > TMP_AGE_S]
            for path in tmp:
                remove(path)
            named = {digest.removeprefix(PREFIX) for digest in known()}
            orphans = [
                path
                for path in sorted(self.root.glob("sha256/??/*"))
                if path.name not in named and (is_alone or _age(path, now_s) > ORPHAN_AGE_S)
            ]
            for path in orphans:
                remove(path)
        return Sweep(len(tmp), len(orphans))


def read_plain(path: Path) -> bytes | None:
    """The bytes of an ordinary file; None for anything else, links included."""
    return path.read_bytes() if _is_plain(path) else None


def files_of(manifest: bytes) -> dict[str, tuple[str, int] | None]:
    """Names in a manifest with the digest and size of each file; nothing where it cannot be read."""
    try:
        listed: JSON = json.loads(manifest)["files"]
        return {str(f["path"]): (str(f["sha256"]), int(f["bytes"])) for f in cast("list[dict[str, JSON]]", listed)}  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _overwrite(path: Path) -> None:
    """Zeros over a file's bytes, on the disk. A file system that writes elsewhere, or a backup, keeps them."""
    path.chmod(0o600)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for start in range(0, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - start)))
        file.flush()
        os.fsync(file.fileno())


def _age(path: Path, now_s: float) -> float:
    return now_s - path.lstat().st_mtime


@contextmanager
def _lock(path: Path, *, exclusive: bool) -> Iterator[bool]:
    """Hold the lock, shared by waiting for it, exclusively only if nobody has it. Says whether it is held.

    The system lets go of it when the process dies. Where there is no such lock nobody holds it.
    """
    if os.name != "posix":
        yield not exclusive
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
            is_held = True
        except BlockingIOError:
            is_held = False
        yield is_held
    finally:
        os.close(handle)
