"""Content addresses: canonical JSON and sha256 with a tag that names the algorithm.

`canonical_json` is part of the file formats: changing it changes every address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

PREFIX = "sha256:"


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces, no NaN. Raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_bytes(*chunks: bytes | memoryview) -> str:
    """Address of the concatenated chunks, ``sha256:<hex>``."""
    h = hashlib.sha256()
    for chunk in chunks:
        h.update(chunk)
    return PREFIX + h.hexdigest()


def digest_json(value: object) -> str:
    """Address of a JSON value in its canonical form."""
    return digest_bytes(canonical_json(value))


def digest_texts(texts: Iterable[str]) -> str:
    """Address of a sequence of texts; their borders count."""
    h = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        h.update(len(raw).to_bytes(8, "little"))
        h.update(raw)
    return PREFIX + h.hexdigest()


def digest_file(path: Path) -> str:
    """Address of a file's bytes, read in pieces."""
    h = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return PREFIX + h.hexdigest()
