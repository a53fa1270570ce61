"""Deltas on disk: a safetensors file whose bytes are a pure function of the delta.

The layout is normative, see docs/delta-format.md. Writing and strict reading are done here, not by the safetensors
library, because two things must hold that it does not promise: the same delta gives the same bytes with every version,
and every byte of the file is covered by a check.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import cast
from uuid import uuid4

import torch
from torch import Tensor

from catechism.delta.delta import FORMAT, VERSION, Delta
from catechism.delta.low_rank import tensor_bytes
from catechism.delta.part import Part, build, tensor_names
from catechism.delta.piece import STORED
from catechism.errors import (
    CatechismError,
    DeltaCorrupt,
    NonFiniteDelta,
    UnsafeDelta,
    WrongBase,
)
from catechism.hashing import canonical_json
from catechism.types import JSON

_METADATA = "__metadata__"
_TORCH_DTYPES = {name: dtype for dtype, name in STORED.items()}
_VERSIONS = range(1, VERSION + 1)
_PICKLES = (b"\x80", b"PK\x03\x04")  # a bare pickle (protocol 2 and up) and a torch.save archive
_AGAIN = "Copy the file again from where it was made, or fit the delta anew."


def save(delta: Delta, path: Path) -> Path:
    """Write a delta to a file, all or nothing; a file that is already there is replaced.

    Raises:
        NonFiniteDelta: the delta holds NaN or infinity.
    """
    if not delta.is_finite():
        raise NonFiniteDelta("The delta holds NaN or infinity and is not written. Fit it again in float32.")
    header, tensors = _encode(delta)
    return write_atomically(Path(path), header, *(tensor_bytes(tensor) for tensor in tensors))


def load(path: Path, *, base: str | None = None) -> Delta:
    """Read a delta from a file and prove it by its digest; runs no code from the file.

    Args:
        path: a file that `save` wrote.
        base: digest of the base model that the delta has to fit; None to take any.

    Raises:
        UnsafeDelta: a pickle, no file, or not a delta file.
        DeltaCorrupt: truncated, or a byte of it is not what was written.
        WrongBase: made for another base.
        NonFiniteDelta: holds NaN or infinity.
    """
    path = Path(path)
    raw = _read(path)
    entries, start = _safetensors_header(path, raw)
    header = _delta_header(path, entries)
    delta = _decode(path, raw, entries, start, header)
    if delta.digest != header.get("digest"):
        raise DeltaCorrupt(f"{path}: digest is {delta.digest}, the header says {header.get('digest')}. {_AGAIN}")
    expected, _ = _encode(delta)
    if raw[:start] != expected or len(raw) != start + delta.nbytes:
        raise DeltaCorrupt(f"{path}: the header is not the one that belongs to this content. {_AGAIN}")
    if base is not None and delta.base != base:
        raise WrongBase(
            f"{path}: made for the base {delta.base}, got the base {base}. "
            "Open the model that it was fitted on, or fit it again on this one."
        )
    if not delta.is_finite():
        raise NonFiniteDelta(f"{path}: the delta holds NaN or infinity. Fit it again in float32.")
    return delta


def write_atomically(path: Path, *chunks: bytes | memoryview) -> Path:
    """Write the chunks to a file beside `path` and put it in place in one step; makes the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with beside.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path


def _encode(delta: Delta) -> tuple[bytes, list[Tensor]]:
    """The bytes before the tensors, and the tensors in the order of the file."""
    tensors: dict[str, Tensor] = {}
    for key, part in delta.parts.items():
        tensors.update((f"{key}.{name}", tensor) for name, tensor in part.tensors().items())
    # wide elements first keeps every tensor aligned, as the safetensors format asks for
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    document = canonical_json({**delta.header(), "digest": delta.digest}).decode()
    entries: dict[str, JSON] = {_METADATA: {FORMAT: document}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    header = canonical_json(entries)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, [tensors[name] for name in names]


def _read(path: Path) -> bytearray:
    if path.is_dir():
        raise UnsafeDelta(f"{path} is a folder, not a delta file. For a PEFT adapter use `from_peft`.")
    if not path.is_file():
        raise UnsafeDelta(f"{path}: there is no such file. Check the path.")
    raw = bytearray(path.stat().st_size)
    with path.open("rb") as file:
        file.readinto(raw)
    return raw


def _safetensors_header(path: Path, raw: bytearray) -> tuple[dict[str, JSON], int]:
    """The JSON in front of the tensors, and where the tensors start."""
    start = 8 + int.from_bytes(raw[:8], "little")
    if raw[8:9] != b"{":
        if raw.startswith(_PICKLES):
            raise UnsafeDelta(
                f"{path} is a pickle, which can run code when it is opened; it was not opened. "
                "Ask its author for a file written by `catechism.delta.save`."
            )
        if len(raw) > 8 and FORMAT.encode() not in raw:
            raise UnsafeDelta(f"{path} is not a safetensors file. Give a file written by `catechism.delta.save`.")
        raise DeltaCorrupt(f"{path}: {len(raw)} bytes without a readable header. {_AGAIN}")
    if start > len(raw):
        raise DeltaCorrupt(f"{path}: truncated, the header needs {start} bytes and the file has {len(raw)}. {_AGAIN}")
    entries = _json_object(raw[8:start])
    if entries is None:
        raise DeltaCorrupt(f"{path}: the header is not JSON. {_AGAIN}")
    return entries, start


def _delta_header(path: Path, entries: dict[str, JSON]) -> dict[str, JSON]:
    metadata = entries.get(_METADATA)
    document = metadata.get(FORMAT) if isinstance(metadata, dict) else None
    if not isinstance(document, str):
        raise UnsafeDelta(
            f"{path} is a safetensors file without a {FORMAT} header, so nothing says which base it fits. "
            "If it belongs to a LoRA adapter, import the adapter's folder with `from_peft`."
        )
    header = _json_object(document.encode(errors="replace"))
    if header is None:
        raise DeltaCorrupt(f"{path}: the {FORMAT} header is not JSON. {_AGAIN}")
    if header.get("format") != FORMAT or header.get("version") not in _VERSIONS:
        raise UnsafeDelta(
            f"{path}: format {header.get('format')!r} version {header.get('version')!r}, this release reads "
            f"{FORMAT!r} up to version {VERSION}. Upgrade with `pip install -U catechism`."
        )
    return header


def _decode(path: Path, raw: bytearray, entries: dict[str, JSON], start: int, header: dict[str, JSON]) -> Delta:
    """Build the delta that the header announces; what the file says more than that shows when it is encoded again."""
    base, info, parts = header.get("base"), header.get("info"), header.get("parts")
    if not isinstance(base, str) or not isinstance(info, dict) or not isinstance(parts, dict):
        raise DeltaCorrupt(f"{path}: the {FORMAT} header lacks base, info or parts. {_AGAIN}")
    built: dict[str, Part] = {}
    for key, claim in parts.items():
        try:
            names = tensor_names(claim)
            part = build(claim, {name: _tensor(path, raw, entries, start, f"{key}.{name}") for name in names})
        except DeltaCorrupt:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as problem:  # also our own errors
            raise DeltaCorrupt(f"{path}: {key!r} is {claim}: {problem!r}. {_AGAIN}") from problem
        if part.header() != claim:
            raise DeltaCorrupt(f"{path}: the header says {key!r} is {claim}, its tensors are {part.header()}. {_AGAIN}")
        built[key] = part
    try:
        return Delta(base, built, cast("dict[str, JSON]", info))
    except CatechismError as problem:
        raise DeltaCorrupt(f"{path}: {problem} {_AGAIN}") from problem


def _tensor(path: Path, raw: bytearray, entries: dict[str, JSON], start: int, name: str) -> Tensor:
    """A copy of one tensor of the file, after checking that its entry describes bytes that are there."""
    entry = entries.get(name)
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            kind in _TORCH_DTYPES
            and all(isinstance(length, int) and 0 <= length <= len(raw) * 1024 for length in shape)
            and 0 <= begin <= end <= len(raw) - start
        ):
            dtype = _TORCH_DTYPES[kind]
        case _:
            raise DeltaCorrupt(f"{path}: no usable tensor {name!r}, got {entry}; the file may be cut off. {_AGAIN}")
    count = math.prod(shape)
    if len(shape) not in (1, 2, 3) or count * dtype.itemsize != end - begin:
        raise DeltaCorrupt(f"{path}: the header says {name!r} is {kind} {shape}, its bytes are {end - begin}. {_AGAIN}")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype, count=count, offset=start + begin).reshape(shape).clone()


def _json_object(text: bytes | bytearray) -> dict[str, JSON] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
