"""Adding an edit: everything is written, synced and moved into place before the database speaks of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, func, insert, select, update

from catechism.hashing import canonical_json, digest_bytes, digest_json
from catechism.registry import read
from catechism.registry.audit import Writer
from catechism.registry.manifest import (
    check_draft,
    columns,
    content_of,
    fact_columns,
    manifest_of,
    write_files,
)
from catechism.registry.policy import ENDED
from catechism.registry.prove import sealed_catechism
from catechism.registry.records import Draft, EditVersion, State
from catechism.registry.room import Room
from catechism.registry.signing import EDIT_TYPE
from catechism.registry.store import MANIFEST, SIGNATURE, TRAINING, write_synced
from catechism.registry.tables import dataset, edit_version, fact
from catechism.registry.times import micros, text
from catechism.types import JSON


def add(room: Room, draft: Draft) -> EditVersion:
    """Keep a draft as an edit version. The same draft again gives the version that is there, unless that has ended."""
    draft = check_draft(draft)
    with room.database.read() as connection:
        supersedes = read.find(connection, draft.supersedes).id if draft.supersedes else None
        content = content_of(draft, supersedes)
        if found := _living(connection, digest_json(content)):
            return found
        n = _next(connection, digest_json(content), supersedes)
    with room.store.publishing() as folder:
        write_files(draft, folder)
        manifest = manifest_of(content, n, text(micros(room.now())), folder)
        raw = canonical_json(manifest)
        write_synced(folder / MANIFEST, raw)
        write_synced(folder / SIGNATURE, room.keys.sign(EDIT_TYPE, raw))
        digest = digest_bytes(raw)
        room.store.publish(folder, digest)
        with room.writing(draft.author) as writer:
            if found := _living(writer.connection, digest_json(content)):
                return found  # another process was first; the next sweep takes this one's folder away
            register(writer, manifest, digest, room.store.path(digest), "edit.add")
            return read.find(writer.connection, str(manifest["edit"]))


def register(writer: Writer, manifest: Mapping[str, JSON], digest: str, folder: Path, action: str) -> None:
    """Write the rows of an edit version that has been published."""
    connection, row = writer.connection, columns(manifest, digest)
    body = {name: row[name] for name in ("digest", "fact_id", "method", "base", "risk", "author", "supersedes")}
    seq = writer.record(action, row["id"], body)
    taught = fact_columns(sealed_catechism(folder).fact, writer.at)
    known = connection.execute(select(fact.c.body).where(fact.c.id == taught["id"])).scalar()
    if known is None:
        connection.execute(insert(fact).values(**taught))
    elif not known:  # its text was destroyed with a sealed edit; now somebody brings it again
        connection.execute(update(fact).where(fact.c.id == taught["id"]).values(**taught))
    if connection.execute(select(dataset).where(dataset.c.sha256 == row["dataset_sha256"])).first() is None:
        rows = cast("dict[str, Any]", manifest["dataset"])["rows"]
        size = (folder / TRAINING).stat().st_size
        connection.execute(insert(dataset).values(sha256=row["dataset_sha256"], rows=rows, bytes=size))
    connection.execute(insert(edit_version).values(**row, state=State.DRAFT.value, state_gen=0, audit_seq=seq))


def _living(connection: Connection, content: str) -> EditVersion | None:
    ended = [state.value for state in ENDED]
    same = read.versions(connection, edit_version.c.content_sha256 == content, edit_version.c.state.not_in(ended))
    return same[0] if same else None


def _next(connection: Connection, content: str, supersedes: str | None) -> int:
    before = (edit_version.c.content_sha256 == content) | (edit_version.c.id == (supersedes or ""))
    return 1 + (connection.execute(select(func.max(edit_version.c.n)).where(before)).scalar() or 0)
