"""What is sealed: the manifest of an edit version, and a catechism as JSON and back.

The manifest is canonical JSON; its sha256 is the version's digest and names its folder. The id is a function of
everything in it but the time of making, so that the same edit has the same id in every store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, cast

from catechism.errors import CatechismError, StoreDamaged, UsageError, WrongBase
from catechism.hashing import PREFIX, canonical_json, digest_bytes, digest_file, digest_json
from catechism.matching import name_key
from catechism.registry import times
from catechism.registry.policy import is_lower
from catechism.registry.records import KINDS, Draft
from catechism.registry.store import CATECHISM, DELTA, TRAINING, write_synced
from catechism.types import JSON, Catechism, Fact, Kind, Question, Risk, Source

SCHEMA = "catechism.edit/1"
MAX_NAME_CHARS = 200


def check_draft(draft: Draft) -> Draft:
    """The draft with author and risk filled in.

    Raises:
        UsageError: something is missing, out of its list, or no plain JSON.
        WrongBase: the delta was made for another base than the draft says.
    """
    risk = draft.risk or draft.catechism.fact.risk
    if is_lower(risk, draft.catechism.fact.risk):
        raise UsageError(f"The risk {risk} is lower than the fact's own, {draft.catechism.fact.risk}. Leave it out.")
    if draft.kind not in KINDS:
        raise UsageError(f"{draft.kind!r} is no kind of edit. Use one of: {', '.join(KINDS)}.")
    if draft.delta is not None and draft.delta.base != draft.base:
        raise WrongBase(
            f"The delta was made for the base {draft.delta.base}, the draft says {draft.base or 'nothing'}. "
            "Give both the digest of the model that it was fitted on."
        )
    for name in ("base", "method"):
        person("the " + name, getattr(draft, name))
    try:
        canonical_json([dict(draft.config), draft.locus, draft.why, [dict(row) for row in draft.training]])
        canonical_json(catechism_json(draft.catechism))
    except (TypeError, ValueError) as problem:
        raise UsageError(
            f"What an edit keeps must be plain, finite JSON in UTF-8: {problem}. "
            "Turn other objects into strings or lists."
        ) from problem
    return replace(draft, author=person("the author", draft.author or draft.catechism.fact.author), risk=risk)


def person(what: str, name: str) -> str:
    """A name without white space at its ends. Raises UsageError if it is empty, too long or cannot be printed."""
    clean = name.strip()
    if not clean or len(clean) > MAX_NAME_CHARS or not clean.isprintable():
        raise UsageError(f"{name[:50]!r} cannot be {what}. Give up to {MAX_NAME_CHARS} printable characters.")
    return clean


def write_files(draft: Draft, folder: Path) -> None:
    """Write everything but manifest and signature."""
    write_synced(folder / CATECHISM, canonical_json(catechism_json(draft.catechism)))
    write_synced(folder / TRAINING, json_lines(draft.training))
    if draft.delta is not None:
        from catechism.delta import save

        save(draft.delta, folder / DELTA)


def json_lines(rows: Sequence[Mapping[str, JSON]]) -> bytes:
    """Rows as canonical JSON, one a line."""
    return b"".join(canonical_json(dict(row)) + b"\n" for row in rows)


def content_of(draft: Draft, supersedes: str | None) -> dict[str, JSON]:
    """The manifest less its files, version, id and time: what makes two edits the same edit."""
    fact = draft.catechism.fact
    return {
        "schema": SCHEMA,
        "kind": draft.kind,
        "method": {
            "name": draft.method, "config": dict(draft.config), "config_sha256": digest_json(dict(draft.config)),
            "seed": draft.seed,
        },
        "locus": draft.locus,
        "why": draft.why,
        "base_model": {"digest": draft.base},
        "fact": fact_id(fact),
        "catechism": digest_json(catechism_json(draft.catechism)),
        "dataset": {"sha256": digest_bytes(json_lines(draft.training)), "rows": len(draft.training)},
        "delta": None if draft.delta is None else draft.delta.digest,
        "requires": ["text"] if draft.delta is None else sorted({part.kind for part in draft.delta.parts.values()}),
        "inverse": {"kind": "drop"},
        "valid_from": fact.valid_from,
        "valid_to": fact.valid_to,
        "risk": (draft.risk or fact.risk).value,
        "author": draft.author,
        "supersedes": supersedes,
    }  # fmt: skip


def manifest_of(content: Mapping[str, JSON], n: int, created: str, folder: Path) -> dict[str, JSON]:
    """The whole manifest, with the files that are in the folder."""
    files: list[JSON] = [
        {"path": path.name, "bytes": path.stat().st_size, "sha256": digest_file(path)}
        for path in sorted(folder.iterdir())
    ]
    return {**content, "version": n, "edit": edit_id(content, n), "created": created, "files": files}


def edit_id(content: Mapping[str, JSON], n: int) -> str:
    """``E`` and 16 digits of the content's digest."""
    return "E" + digest_json({**content, "version": n}).removeprefix(PREFIX)[:16]


def fact_id(fact: Fact) -> str:
    """``F`` and 16 digits of the fact's digest."""
    return "F" + digest_json(plain(fact)).removeprefix(PREFIX)[:16]


_NOT_CONTENT = ("version", "edit", "created", "files")


def columns(manifest: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """What the row of an edit version has to hold.

    Raises:
        StoreDamaged: the manifest is not one, or its id is not the one of its content.
    """
    try:
        content = {key: value for key, value in manifest.items() if key not in _NOT_CONTENT}
        if manifest["schema"] != SCHEMA or manifest["edit"] != edit_id(content, manifest["version"]):
            raise ValueError("its id is not the one of its content")
        method, dataset = manifest["method"], manifest["dataset"]
        if method["config_sha256"] != digest_json(method["config"]):
            raise ValueError("the digest of the method's settings does not match them")
        return {
            "id": manifest["edit"], "n": manifest["version"], "content_sha256": digest_json(content),
            "digest": digest, "fact_id": manifest["fact"], "kind": manifest["kind"], "method": method["name"],
            "method_config": canonical_json(method["config"]).decode(), "seed": method["seed"],
            "locus": canonical_json(manifest["locus"]).decode(), "why": manifest["why"],
            "base": manifest["base_model"]["digest"], "artifact": manifest["delta"],
            "dataset_sha256": dataset["sha256"], "risk": Risk(manifest["risk"]).value, "author": manifest["author"],
            "supersedes": manifest["supersedes"], "created_at": times.end_of(manifest["created"]),
        }  # fmt: skip
    except (KeyError, TypeError, ValueError, CatechismError) as problem:
        raise StoreDamaged(
            f"{digest} is no manifest of {SCHEMA}: {problem}. `catechism verify` names the rest."
        ) from None


def fact_columns(fact: Fact, at: int) -> dict[str, Any]:
    """What the row of a fact has to hold. Two facts are about the same where the two first keys are equal."""
    body = plain(fact)
    relation = fact.relation or fact.prompt.replace(fact.subject, "{}")
    return {
        "id": fact_id(fact), "content_sha256": digest_json(body), "subject_key": name_key(fact.subject),
        "relation_key": name_key(relation), "object_key": name_key(fact.object), "valid_from": fact.valid_from,
        "valid_to": fact.valid_to, "body": canonical_json(body).decode(), "recorded_at": at,
    }  # fmt: skip


def forget_key(fact: Fact) -> str:
    """Digest of what is said of what: subject, relation and object, however they are spelled.

    A deletion keeps it in the place of the text. Whoever can guess a fact can also find out whether it is this one.
    """
    row = fact_columns(fact, 0)
    return digest_json([row["subject_key"], row["relation_key"], row["object_key"]])


def plain(value: Any) -> Any:
    """A frozen value of `catechism.types` as JSON. Fields with their default value are left out."""
    if isinstance(value, tuple):
        return [plain(item) for item in cast("tuple[Any, ...]", value)]
    if not hasattr(value, "__dataclass_fields__"):
        return value.value if isinstance(value, Kind | Risk) else value
    return {f.name: plain(held) for f in fields(value) if (held := getattr(value, f.name)) != f.default}


def catechism_json(catechism: Catechism) -> dict[str, JSON]:
    """A catechism as JSON. A field added later leaves the JSON of older ones as it is."""
    return plain(catechism)


def read_catechism(raw: bytes) -> Catechism:
    """The catechism in a sealed file. Raises StoreDamaged if it is none."""
    try:
        return catechism_of(json.loads(raw))
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise StoreDamaged(f"{CATECHISM} cannot be read: {problem}. See `catechism verify`.") from None


def catechism_of(held: Any) -> Catechism:
    """A catechism from its JSON. Raises TypeError, ValueError, KeyError or AttributeError if it is none."""
    _check_names(Catechism, held)
    return Catechism(
        read_fact(held["fact"]),
        tuple(_question(q) for q in held["questions"]),
        tuple(_question(q) for q in held.get("study", ())),
    )


def read_fact(held: dict[str, Any]) -> Fact:
    """A fact from its JSON. Raises TypeError, ValueError or KeyError if it is none."""
    _check_names(Fact, held)
    sources = tuple(Source(**source) for source in held.get("sources", ()))
    named = {**held, "sources": sources}
    return Fact(**{**named, "risk": Risk(held["risk"])} if "risk" in held else named)


def _question(held: dict[str, Any]) -> Question:
    answers = {name: tuple(held.get(name, ())) for name in ("accept", "reject")}
    return Question(**{**held, **answers, "kind": Kind(held["kind"])})


def _check_names(kind: type[Any], held: Mapping[str, Any]) -> None:
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    known = {f.name for f in fields(kind)}
    if not required <= set(held) <= known:
        raise ValueError(f"{kind.__name__} has the fields {sorted(held)}")
