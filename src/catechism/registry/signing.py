"""Keys and signatures: ed25519 over DSSE envelopes, so that who sealed something can be proven offline.

The private key is ``keys/ed25519.pem``, readable by its owner alone. Public keys are ``keys/<key id>.pub``, those that
came with imports ``keys/imported/<key id>.pub``. A key's id is the sha256 of its 32 bytes, so no file can pose as
another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from catechism.errors import StoreDamaged
from catechism.hashing import canonical_json
from catechism.registry.store import write_synced
from catechism.types import JSON

EDIT_TYPE = "application/vnd.catechism.edit+json"
CERTIFICATE_TYPE = "application/vnd.catechism.certificate+json"
CHECKPOINT_TYPE = "application/vnd.catechism.checkpoint+json"


def key_id(public: Ed25519PublicKey) -> str:
    """Hexadecimal sha256 of a public key's 32 bytes."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def pem_of(public: Ed25519PublicKey) -> bytes:
    """A public key as a PEM text."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public(folder: Path, identity: str) -> Ed25519PublicKey | None:
    path = folder / f"{identity}.pub"
    if not identity.isalnum() or not path.is_file():
        return None
    key = read_public(path.read_bytes())
    return key if key is not None and key_id(key) == identity else None


def read_public(pem: bytes) -> Ed25519PublicKey | None:
    """The ed25519 key in a PEM text; None if there is none in it."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, Ed25519PublicKey) else None


@dataclass(frozen=True, slots=True)
class Keys:
    """The folder of keys."""

    folder: Path

    @property
    def private(self) -> Path:
        """Where the private key is."""
        return self.folder / "ed25519.pem"

    def signer(self) -> Ed25519PrivateKey:
        """The own key, made on first use. Two processes that make it at once end with the same one.

        Raises:
            StoreDamaged: there is a file, and it holds no such key.
        """
        if not self.private.exists():
            self._create()
        try:
            key = serialization.load_pem_private_key(self.private.read_bytes(), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise StoreDamaged(
                f"{self.private} holds no ed25519 key. Bring it back from a backup, or remove it: a new one is made, "
                "and what the old one signed stays valid. `catechism verify` checks it."
            )
        return key

    def own_id(self) -> str:
        """Id of the own key."""
        return key_id(self.signer().public_key())

    def _create(self) -> None:
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.add(key.public_key())
        beside = self.folder / f".{uuid4().hex}"
        write_synced(beside, private, mode=0o600)
        try:
            os.link(beside, self.private)  # fails where another process was first
        except FileExistsError:
            pass
        finally:
            beside.unlink()

    def add(self, public: Ed25519PublicKey, *, imported: bool = False) -> None:
        """Keep a public key."""
        folder = self.folder / "imported" if imported else self.folder
        path = folder / f"{key_id(public)}.pub"
        if path.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{uuid4().hex}"
        write_synced(beside, pem_of(public))
        beside.replace(path)

    def ids(self) -> Iterator[str]:
        """Ids of all public keys, by their file names."""
        yield from sorted(path.stem for path in self.folder.rglob("*.pub"))

    def own(self, identity: str) -> Ed25519PublicKey | None:
        """The public key of an id, if it is one of this store; None where its file does not hold it."""
        return _public(self.folder, identity)

    def public(self, identity: str) -> Ed25519PublicKey | None:
        """The public key of an id, of this store or imported; None where there is none."""
        return self.own(identity) or _public(self.folder / "imported", identity)

    def sign(self, kind: str, payload: bytes) -> bytes:
        """A DSSE envelope with the payload and the own key's signature, as canonical JSON."""
        key = self.signer()
        signature = {"keyid": key_id(key.public_key()), "sig": _text(key.sign(_encoded(kind, payload)))}
        return canonical_json({"payloadType": kind, "payload": _text(payload), "signatures": [signature]})


def check(
    kind: str,
    envelope: bytes,
    find: Callable[[str], Ed25519PublicKey | None],
    payload: bytes | None = None,
) -> tuple[bytes, str | None]:
    """The payload of an envelope, and what is wrong with it (None if nothing is).

    Args:
        kind: the type that the payload has to have.
        envelope: what `Keys.sign` made.
        find: from a key's id to the key, None for one that is not believed.
        payload: what it has to hold; None to take anything.
    """
    match _json(envelope):
        case {
            "payloadType": str(found),
            "payload": str(held),
            "signatures": [{"keyid": str(identity), "sig": str(sig)}],
        }:
            pass
        case _:
            return b"", "the signature is not a DSSE envelope with one signature"
    try:
        content, signature = base64.b64decode(held, validate=True), base64.b64decode(sig, validate=True)
    except binascii.Error:
        return b"", "the signature is not base64"
    key = find(identity)
    if found != kind:
        return content, f"the signature is for {found!r}, not for {kind!r}"
    if payload is not None and content != payload:
        return content, "the signature is for other bytes"
    if key is None:
        return content, f"the key {identity[:16]} that signed it is not known"
    try:
        key.verify(signature, _encoded(kind, content))
    except InvalidSignature:
        return content, f"the signature is not one of the key {identity[:16]}"
    return content, None


def signer_of(envelope: bytes) -> str | None:
    """Id of the key that an envelope names."""
    match _json(envelope):
        case {"signatures": [{"keyid": str(identity)}]}:
            return identity
        case _:
            return None


def _encoded(kind: str, payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding of DSSE 1.0."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _json(raw: bytes) -> JSON:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
