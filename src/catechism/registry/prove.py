"""Proving what is stored: an artifact against its manifest, its signature and its row."""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from catechism.errors import StoreDamaged
from catechism.hashing import digest_file, digest_json
from catechism.registry.manifest import catechism_json, columns, fact_id, read_catechism
from catechism.registry.records import EditVersion
from catechism.registry.room import Room
from catechism.registry.signing import EDIT_TYPE, check
from catechism.registry.store import CATECHISM, DELTA, MANIFEST, SIGNATURE, TRAINING, read_plain
from catechism.registry.tables import edit_version
from catechism.types import JSON, Catechism


def read_manifest(folder: Path) -> dict[str, JSON]:
    """The manifest of an artifact. Raises StoreDamaged if it cannot be read."""
    try:
        return json.loads(read_plain(folder / MANIFEST) or b"")
    except (ValueError, RecursionError):
        raise StoreDamaged(f"{folder / MANIFEST} cannot be read. See `catechism verify`.") from None


def sealed_catechism(folder: Path) -> Catechism:
    """The catechism of an artifact. Raises StoreDamaged if it cannot be read."""
    return read_catechism(read_plain(folder / CATECHISM) or b"")


def signature_problem(folder: Path, find: Callable[[str], Ed25519PublicKey | None]) -> str | None:
    """What is wrong with an artifact's signature; None if nothing is."""
    envelope = read_plain(folder / SIGNATURE) or b""
    return check(EDIT_TYPE, envelope, find, read_plain(folder / MANIFEST))[1]


def sealed_problems(room: Room, edit: EditVersion) -> list[str]:
    """What about an edit's artifact, signature and row does not match; nothing if it is sound."""
    if found := room.store.problems(edit.digest, gone=edit.gone):
        return found
    folder = room.store.path(edit.digest)
    if problem := signature_problem(folder, room.keys.public):
        found.append(problem)
    expected = columns(read_manifest(folder), edit.digest)
    with room.database.read() as connection:
        row = connection.execute(select(edit_version).where(edit_version.c.id == edit.id)).mappings().one()
    if wrong := [name for name, value in expected.items() if row[name] != value]:
        found.append(f"its row differs from the manifest in {', '.join(wrong)}")
    return found


def sealed_training(folder: Path) -> list[dict[str, JSON]]:
    """The rows that an edit was trained on. Raises StoreDamaged if they cannot be read."""
    try:
        return [json.loads(line) for line in (read_plain(folder / TRAINING) or b"").splitlines()]
    except (ValueError, RecursionError):
        raise StoreDamaged(f"{folder / TRAINING} cannot be read. See `catechism verify`.") from None


def content_problem(folder: Path, digest: str, gone: Set[str] = frozenset()) -> str | None:
    """What in a sound artifact does not fit its own manifest; None if all does. Opens the delta if there is one."""
    manifest = read_manifest(folder)
    row = columns(manifest, digest)
    if gone:  # the manifest's digests of what was destroyed are all that is left of it
        return None if DELTA in gone else _delta_problem(folder, row["artifact"], row["base"])
    catechism = sealed_catechism(folder)
    said = digest_json(catechism_json(catechism))
    if manifest.get("catechism") != said:
        return f"the catechism is {said}, the manifest says {manifest.get('catechism')}"
    if fact_id(catechism.fact) != row["fact_id"]:
        return f"the fact is {fact_id(catechism.fact)}, the manifest says {row['fact_id']}"
    return _dataset_problem(folder, row["dataset_sha256"]) or _delta_problem(folder, row["artifact"], row["base"])


def _dataset_problem(folder: Path, expected: str) -> str | None:
    found = digest_file(folder / TRAINING) if (folder / TRAINING).is_file() else "missing"
    return None if found == expected else f"{TRAINING} is {found}, the manifest says {expected}"


def _delta_problem(folder: Path, expected: str | None, base: str) -> str | None:
    is_there = (folder / DELTA).is_file()
    if is_there != (expected is not None):
        return f"{DELTA} is {'there' if is_there else 'missing'}, the manifest says {expected}"
    if expected is None:
        return None
    from catechism.delta import load

    found = load(folder / DELTA, base=base).digest
    return None if found == expected else f"{DELTA} holds {found}, the manifest says {expected}"
