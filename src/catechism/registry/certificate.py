"""The certificate of a deletion: a signed document that can be verified anywhere, without a store and without a model.

    {"schema", "body": {section: ...}, "page": {"name", "sha256"}, "public_key": PEM, "envelope": DSSE}

in canonical JSON with a line feed. What is signed holds the digest of every section and of the printable page, so that
a change is named by the section that it is in.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from catechism.errors import BadCertificate
from catechism.hashing import canonical_json, digest_bytes, digest_json
from catechism.registry.signing import CERTIFICATE_TYPE, Keys, check, key_id, pem_of, read_public, signer_of
from catechism.types import JSON

SCHEMA = "catechism.certificate/1"
_KEYS = ("schema", "body", "page", "public_key", "envelope")


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of verifying a certificate.

    Attributes:
        problems: everything that does not match, in words; none if it holds.
        signer: id of the key that signed it.
        trusted: whether that key was held against one that the caller trusts.
        body: what the certificate says, whether it holds or not.
        notes: what was not checked.
    """

    problems: tuple[str, ...]
    signer: str | None
    trusted: bool
    body: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything matches."""
        return not self.problems

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "ok": self.ok, "problems": list(self.problems), "signer": self.signer, "trusted": self.trusted,
            "notes": list(self.notes), "body": dict(self.body),
        }  # fmt: skip


def page_of(file: Path) -> Path:
    """Where the printable page of a certificate is."""
    return file.with_name(f"{file.stem}.html")


def issue(keys: Keys, body: Mapping[str, JSON], page: bytes, file: Path) -> bytes:
    """A certificate about `body` and its printable page, signed with the own key of a store.

    Args:
        keys: of the store.
        body: sections by name, plain finite JSON.
        page: the printable page.
        file: where the certificate is going to be; names the page.
    """
    signer = keys.signer()
    stands = {"name": page_of(file).name, "sha256": digest_bytes(page)}
    signed = {"schema": SCHEMA, "sections": {name: digest_json(one) for name, one in body.items()}, "page": stands}
    document = {
        "schema": SCHEMA,
        "body": dict(body),
        "page": stands,
        "public_key": pem_of(signer.public_key()).decode(),
        "envelope": json.loads(keys.sign(CERTIFICATE_TYPE, canonical_json(signed))),
    }
    return canonical_json(document) + b"\n"


def verify(file: Path, *, key: bytes | None = None) -> Checked:
    """Hold a certificate against its signature, and its page, if that lies beside it, against the certificate.

    Args:
        file: the certificate.
        key: PEM of the public key that it has to be signed with; None believes the one that it carries, which proves
            that nothing was changed and not who signed it.

    Raises: BadCertificate if the file is none, or the key is none.
    """
    raw = _read(file)
    document = _document(raw, file)
    trusted = None if key is None else read_public(key)
    if key is not None and trusted is None:
        raise BadCertificate(
            "The file given with --key holds no ed25519 public key. Give keys/<key id>.pub of the store."
        )
    problems: list[str] = []
    if canonical_json(document) + b"\n" != raw:
        problems.append("the file is not written as it was: bytes outside its content were changed")
    carried = read_public(str(document["public_key"]).encode())
    if carried is None:
        problems.append("public_key: it holds no key")
    elif pem_of(carried).decode() != document["public_key"]:
        problems.append("public_key: it is not written as it was")
    believed = [one for one in ((trusted,) if trusted else (carried,)) if one is not None]
    known = {key_id(one): one for one in believed}
    envelope = canonical_json(document["envelope"])
    payload, wrong = check(CERTIFICATE_TYPE, envelope, known.get)
    if wrong:
        problems.append(f"envelope: {wrong}")
    if trusted and carried and key_id(carried) != key_id(trusted):
        problems.append(f"public_key: it is that of {key_id(carried)[:16]}, not of the key given with --key")
    problems += _envelope_problems(document["envelope"])
    problems += _content_problems(document, payload)
    found, notes = _page_problems(document, file)
    if trusted is None:
        notes.append("who signed it was not checked: give the signer's public key with --key")
    return Checked((*problems, *found), signer_of(envelope), trusted is not None, document["body"], tuple(notes))


def _content_problems(document: Mapping[str, Any], payload: bytes) -> list[str]:
    """What in the document is not what was signed."""
    try:
        signed = json.loads(payload)
        sections, page = dict(signed["sections"]), dict(signed["page"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ["envelope: what was signed cannot be read"]
    body = document["body"]
    problems = [f"{name}: it is not what was signed" for name in sorted({*sections} & {*body}) if (
        digest_json(body[name]) != sections[name]
    )]  # fmt: skip
    problems += [f"{name}: it was taken out" for name in sorted({*sections} - {*body})]
    problems += [f"{name}: it was put in" for name in sorted({*body} - {*sections})]
    problems += ["page: its name or digest is not what was signed"] if document["page"] != page else []
    return problems


def _envelope_problems(envelope: Mapping[str, Any]) -> list[str]:
    """Spellings of the same base64 that a signature does not see."""
    match envelope:
        case {"payload": str(payload), "signatures": [{"sig": str(signature)}]}:
            pass
        case _:
            return []  # named by the check of the signature
    for text in (payload, signature):
        try:
            if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
                return ["envelope: it is not written as it was"]
        except binascii.Error:
            return []
    return []


def _page_problems(document: Mapping[str, Any], file: Path) -> tuple[list[str], list[str]]:
    """What is wrong with the page beside the certificate, and a note where there is none."""
    page = page_of(file)
    if not page.is_file():
        return [], [f"there is no {page.name} beside it, so the printable page was not checked"]
    found = digest_bytes(page.read_bytes())
    stated = document["page"].get("sha256") if isinstance(document["page"], dict) else None
    return ([] if found == stated else [f"{page.name}: it is not the page that belongs to this certificate"]), []


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadCertificate(f"{file} cannot be read: {error.strerror}. Check the path.") from None


def _document(raw: bytes, file: Path) -> dict[str, Any]:
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadCertificate(
            f"{file} is no certificate of forgetting: it is not JSON. Give the .json file, not the page beside it."
        ) from None
    schema = cast("dict[str, Any]", held).get("schema") if isinstance(held, dict) else None
    if schema != SCHEMA:
        raise BadCertificate(
            f"{file} is no certificate of forgetting: its schema is {str(schema)[:50]!r}, expected {SCHEMA!r}. "
            "Give what `catechism audit EDIT --certificate FILE` wrote, or upgrade this release."
        )
    document = cast("dict[str, Any]", held)
    if set(document) != set(_KEYS) or not all(
        isinstance(document[name], dict) for name in ("body", "page", "envelope")
    ):
        raise BadCertificate(
            f"{file} has the parts {', '.join(sorted(document))}, expected {', '.join(_KEYS)}. Issue it again."
        )
    return document
