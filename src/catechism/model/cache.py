"""Files of what can be computed again, kept by content: tensors under the key of all that they depend on."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from catechism.delta.low_rank import tensor_bytes
from catechism.hashing import digest_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """What was kept under a key: tensors by name, and a note in words or JSON."""

    tensors: Mapping[str, Tensor]
    note: str = ""


def cache_file(folder: Path | None, what: str, key: str) -> Path | None:
    """Where the tensors of a key are kept; None where nothing is kept."""
    return None if folder is None else folder / f"{what}-{key.removeprefix('sha256:')}.safetensors"


def read_cached(file: Path | None, key: str) -> Cached | None:
    """What the file holds, or None if there is none or its bytes are not what was written."""
    if file is None or not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            metadata, names = stored.metadata() or {}, stored.keys()
            found = Cached({name: stored.get_tensor(name) for name in names}, metadata.get("note", ""))
    except (SafetensorError, OSError, ValueError) as error:
        _log.warning("Cached %s cannot be read (%s); computing it again.", file, error)
        return None
    if metadata.get("key") != key or metadata.get("digest") != _digest(found):
        _log.warning("Cached %s does not match its digest; computing it again.", file)
        return None
    return found


def write_cached(file: Path | None, key: str, found: Cached) -> None:
    """Write beside the file and move into place, so that no reader meets half of it."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.stem[:24], suffix=".tmp")
    os.close(handle)
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in found.tensors.items()}
        save_file(tensors, name, metadata={"key": key, "digest": _digest(found), "note": found.note})
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)


def _digest(found: Cached) -> str:
    chunks = [found.note.encode()]
    for name, tensor in sorted(found.tensors.items()):
        chunks += [f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode(), tensor_bytes(tensor)]
    return digest_bytes(*chunks)
