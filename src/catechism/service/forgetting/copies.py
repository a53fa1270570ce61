"""Where forgotten facts are written down besides the weights, and what becomes of each copy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlparse

from catechism.facts.bank import TemplateBank
from catechism.matching import contains
from catechism.registry import EditVersion, Registry
from catechism.registry.manifest import forget_key
from catechism.registry.policy import ENDED
from catechism.service.forgetting.target import Sort, Target, key_of, lessons_of
from catechism.types import JSON, Catechism, Fact

MAX_FILE_BYTES = 64 << 20  # of a source that is looked through
_CACHED = re.compile(r"[a-z0-9_.-]+-[0-9a-f]{64}\.safetensors")


class Place(StrEnum):
    """What kind of thing holds a copy."""

    EDIT = "edit"  # an edit that teaches it: delta, exam, training rows, reports
    NOTE = "note"  # an edit that stays text and is read to the model
    DELETION = "deletion"  # another deletion of it: exam and training rows
    MENTION = "mention"  # an edit about something else whose exam asks for it
    CACHE = "cache"  # statistics, and what an interrupted fit left
    FILE = "file"  # a dataset or source outside the store
    AUDIT = "audit"  # a reason or comment that somebody wrote


@dataclass(frozen=True, slots=True)
class Copy:
    """One place.

    Attributes:
        place: what kind.
        name: an edit's id, a file, an entry of the audit.
        what: what of the fact is there.
        done: what was done with it, or would be.
    """

    place: Place
    name: str
    what: str
    done: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"place": self.place.value, "name": self.name, "what": self.what, "done": self.done}


def find_copies(
    registry: Registry,
    bank: TemplateBank,
    cache: Path,
    target: Target,
    lessons: Sequence[Catechism],
    *,
    of: str = "",
) -> list[Copy]:
    """Every place where the facts are written down, as far as the store knows of it, but in the deletion `of`.

    Nothing is changed.
    """
    facts = [lesson.fact for lesson in lessons]
    keys = {forget_key(fact) for fact in facts}
    taught = teachers(registry, bank, keys)
    return [
        *_in_edits(registry, taught, facts),
        *(_in_deletion(edit, keys) for edit in deletions(registry, keys) if edit.id != of),
        *_in_audit(registry, facts),
        *_in_files(taught, target, facts),
        *(_cached(path) for path in cache_files(cache)),
    ]


def teachers(registry: Registry, bank: TemplateBank, keys: set[str]) -> list[EditVersion]:
    """Every edit, in effect or not, that teaches one of the facts and is not sealed."""
    return [
        edit
        for edit in registry.edits()
        if edit.kind != "delete" and not edit.sealed
        if any(key_of(lesson, bank) in keys for lesson in lessons_of(registry, edit))
    ]


def deletions(registry: Registry, keys: set[str]) -> list[EditVersion]:
    """Every deletion, in effect or not, that forgets one of the facts and is not sealed."""
    return [edit for edit in registry.edits() if edit.kind == "delete" and not edit.sealed and keys & set(edit.forgets)]


def goes_too(deletion: EditVersion, keys: set[str]) -> bool:
    """Whether a deletion is sealed with another that forgets `keys`: if it has ended, or forgets nothing else."""
    return deletion.state in ENDED or keys >= set(deletion.forgets)


def clear_cache(folder: Path) -> int:
    """Take away everything that can be computed again. Gives the number of files."""
    found = list(cache_files(folder))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def cache_files(folder: Path) -> Iterator[Path]:
    """The files of a cache that are named by their content."""
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if _CACHED.fullmatch(path.name))


def with_done(copies: Sequence[Copy], done: dict[tuple[Place, str], str]) -> list[Copy]:
    """The copies with what was done to some of them."""
    return [replace(copy, done=done.get((copy.place, copy.name), copy.done)) for copy in copies]


def _in_edits(registry: Registry, taught: Sequence[EditVersion], facts: Sequence[Fact]) -> Iterator[Copy]:
    ids = {edit.id for edit in taught}
    for edit in registry.edits():
        if edit.sealed or edit.kind == "delete":
            continue
        if edit.id in ids:
            place = Place.NOTE if edit.artifact is None else Place.EDIT
            held = "its sentence is read to the model" if edit.artifact is None else "delta, exam and training rows"
            yield Copy(place, edit.id, f"{edit.state}: {held}", "taken out of effect; its bytes stay until sealed")
        elif asked := _asks(registry, edit, facts):
            yield Copy(
                Place.MENTION, edit.id, f"{edit.state}: {asked} of its questions ask for it",
                "left: it belongs to another fact. Roll that edit back and learn it again to be rid of it",
            )  # fmt: skip


def _in_deletion(edit: EditVersion, keys: set[str]) -> Copy:
    done = "left until sealed" if goes_too(edit, keys) else "left: it forgets other facts too. Seal it by itself"
    return Copy(Place.DELETION, edit.id, f"{edit.state}: exam and training rows", done)


def _asks(registry: Registry, edit: EditVersion, facts: Sequence[Fact]) -> int:
    lesson = registry.catechism(edit.id)
    questions = (*lesson.questions, *lesson.study)
    return sum(
        contains(q.text, fact.subject) and any(contains(answer, fact.object) for answer in (*q.accept, *q.reject))
        for q in questions
        for fact in facts
        if fact.subject
    )


def _in_audit(registry: Registry, facts: Sequence[Fact]) -> Iterator[Copy]:
    for entry in registry.log():
        said = json.dumps(dict(entry.body), ensure_ascii=False)
        if any(contains(said, fact.subject) or contains(said, fact.sentence) for fact in facts if fact.subject):
            yield Copy(
                Place.AUDIT, f"entry {entry.seq}", f"the words that {entry.actor} wrote with {entry.action}",
                "left: the chain cannot be rewritten",
            )  # fmt: skip


def _in_files(taught: Sequence[EditVersion], target: Target, facts: Sequence[Fact]) -> Iterator[Copy]:
    paths = {Path(target.value)} if target.sort in {Sort.DATASET, Sort.SOURCE} else set[Path]()
    for edit in taught:
        paths |= {_local(source.uri) for source in edit.fact.sources if source.uri}
    for path in sorted(paths):
        if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = [
                n
                for n, line in enumerate(text.splitlines(), start=1)
                if any(contains(line, fact.object) and contains(line, fact.subject or fact.prompt) for fact in facts)
            ]
            if lines:
                listed = ", ".join(map(str, lines[:8])) + (" and more" if len(lines) > 8 else "")
                yield Copy(
                    Place.FILE, str(path), f"line {listed}", "left: it lies outside the store. Remove these lines"
                )


def _local(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path) if uri.startswith("file:") else uri)


def _cached(path: Path) -> Copy:
    return Copy(Place.CACHE, path.name, "figures computed from the base and its texts", "left until sealed")
