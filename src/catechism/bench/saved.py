"""A stream of edits on disk: where it stands, so that an interrupted one goes on and ends with the same bytes.

The folder holds the delta, the stream's own tensors, and ``state.json``, which names the other two. It is replaced last
and in one step, so that at every moment the folder holds one whole state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file

from catechism.bench.course import Failure
from catechism.delta import load, save
from catechism.delta.file import write_atomically
from catechism.errors import UsageError
from catechism.hashing import canonical_json
from catechism.methods.stream import Progress
from catechism.types import JSON

_STATE = "state.json"


@dataclass
class State:
    """How far a stream is.

    Attributes:
        tried: edits so far, those that failed too.
        seconds: spent on learning.
        failed: facts that could not be taken in.
        at_once: whether each fact was answered right just after its own edit.
        rows: of the checkpoints so far.
    """

    tried: int = 0
    seconds: float = 0.0
    failed: list[Failure] = field(default_factory=list[Failure])
    at_once: list[bool | None] = field(default_factory=list["bool | None"])
    rows: list[JSON] = field(default_factory=list[JSON])


def store(folder: Path, about: Mapping[str, JSON], state: State, progress: Progress) -> None:
    """Write where the stream stands.

    Args:
        folder: of this stream alone; made if need be.
        about: what the stream is of; it goes on only with the same.
        state: how far it is.
        progress: the method's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, JSON] = {}
    if progress.delta is not None:
        files["delta"] = save(progress.delta, folder / f"delta-{state.tried}.safetensors").name
    if progress.tensors:
        file = folder / f"tensors-{state.tried}.safetensors"
        partial = file.with_suffix(".partial")
        save_file({name: tensor.contiguous() for name, tensor in progress.tensors.items()}, partial)
        files["tensors"] = partial.replace(file).name
    held: dict[str, Any] = {"about": dict(about), "steps": progress.steps, "files": files, "state": asdict(state)}
    write_atomically(folder / _STATE, canonical_json(held))
    for old in folder.glob("*-*.safetensors"):
        if old.name not in files.values():
            old.unlink()


def restore(folder: Path, about: Mapping[str, JSON]) -> tuple[State, Progress] | None:
    """Where the stream stood; None if nothing was stored.

    Raises: UsageError if what is there is of another stream, or cannot be read; DeltaError if its delta is damaged.
    """
    if not (folder / _STATE).is_file():
        return None
    try:
        held = json.loads((folder / _STATE).read_bytes())
        state = State(**{**held["state"], "failed": [Failure(**one) for one in held["state"]["failed"]]})
        files, steps, found = held["files"], int(held["steps"]), cast("dict[str, JSON]", held["about"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / _STATE} cannot be read: {error}. Give another folder to --resume.") from error
    wrong = [key for key in {*about, *found} if found.get(key) != about.get(key)]
    if wrong:
        raise UsageError(
            f"{folder} holds a stream with another {' and '.join(sorted(wrong))}. Give the same command as before, or "
            "another folder to --resume."
        )
    delta = load(folder / files["delta"], base=str(about["base"])) if "delta" in files else None
    tensors = load_file(folder / files["tensors"]) if "tensors" in files else None
    return state, Progress(delta, tensors, steps)
