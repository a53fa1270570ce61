"""A model's folder read tensor by tensor, for models that are larger than memory.

What an edit changes is a few matrices. To put it on a checkpoint, to hash the base, or to look at one matrix, no model
has to be opened: the architecture comes from the config on torch's meta device, without weights, and tensors are read
one at a time from their safetensors files. Memory: one tensor to hash or read, one file to write.

Not here: anything that needs a forward pass, fitting above all. For that open the model, over several devices with
`device_map` if need be. And not for checkpoints whose files name tensors otherwise than the open model does (some
mixtures of experts are fused while they are opened); these are refused by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from catechism.arch import Anatomy, Matrix, anatomy
from catechism.delta import Delta
from catechism.errors import BrokenWeights, ModelNotFound, NonFiniteDelta, ShapeMismatch, UsageError, WrongBase
from catechism.hashing import digest_json
from catechism.model.surgery import digest_tensor

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Shards:
    """The tensors of a folder, none of them loaded.

    Attributes:
        folder: with ``config.json`` and safetensors.
        anatomy: of the model, on the meta device.

    Raises: ModelNotFound without a config; BrokenWeights without weights, or with other names than the open model's;
        UnknownArchitecture for a model type that is not in the table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise ModelNotFound(f"{folder} has no config.json. Give the folder that `save_pretrained` wrote.")
        self._file_of = _files(self.folder)
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        self.anatomy: Anatomy = anatomy(model)
        self._parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        missing = sorted(name for name in self._parameters if name not in self._file_of)
        if missing:
            raise BrokenWeights(
                f"{folder} has no tensor {missing[0]}, one of {len(missing)} that the open model has: this kind of "
                "checkpoint is put together while it is opened. Use `open_model` instead."
            )

    def read(self, name: str) -> Tensor:
        """One tensor by its parameter's name. Nothing else is read."""
        try:
            with safe_open(self._file_of[name], framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError, KeyError) as error:
            raise BrokenWeights(f"{name} cannot be read from {self.folder}: {error}. Copy the files again.") from error

    def base(self) -> str:
        """Digest of the weights, that of the open model."""
        return digest_json({name: digest_tensor(self.read(name)) for name in self._parameters})

    def write_edited(self, delta: Delta, out: Path) -> Path:
        """A copy of the folder with a delta in its weights, file by file.

        Args:
            delta: low-rank and dense changes; a conditional memory cannot be put into weights.
            out: a folder that does not exist yet.

        Raises: WrongBase for a delta of other weights; ShapeMismatch for a part that is no change of a matrix;
            NonFiniteDelta where a result would overflow; UsageError if `out` exists.
        """
        if out.exists():
            raise UsageError(f"{out} exists already. Name a folder that is not there yet.")
        if delta.base != self.base():
            raise WrongBase(f"The delta was made for base {delta.base}, {self.folder} is another. Give its own model.")
        changed = {name: self._edited(name, parts) for name, parts in self._by_parameter(delta).items()}
        touched = {self._file_of[name] for name in changed}
        out.mkdir(parents=True)
        for file in sorted(path for path in self.folder.iterdir() if path.is_file()):
            if file in touched:
                save_file(dict(self._with(file, changed)), out / file.name, metadata={"format": "pt"})
            else:
                shutil.copy2(file, out / file.name)
        return out

    def _by_parameter(self, delta: Delta) -> dict[str, list[tuple[Matrix, Tensor]]]:
        found: dict[str, list[tuple[Matrix, Tensor]]] = {}
        for address, part in delta.parts.items():
            if part.kind not in ("low_rank", "dense"):
                raise ShapeMismatch(
                    f"The part {address!r} is a {part.kind}, which no weights can hold. Keep the delta beside the "
                    "model."
                )
            matrix = self.anatomy.matrix(address)
            found.setdefault(matrix.parameter_name, []).append((matrix, part.dense()))  # type: ignore[union-attr]
        return found

    def _edited(self, name: str, parts: list[tuple[Matrix, Tensor]]) -> Tensor:
        """The parameter with its changes, computed as `catechism.model.surgery` does."""
        base = self.read(name)
        update = torch.zeros_like(base, dtype=torch.float64)
        for matrix, change in parts:
            matrix.select(update).add_(change)
        value = torch.where(update == 0, base, (base.double() + update).to(base.dtype))
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteDelta(f"{name} would overflow {base.dtype} with this delta. Use a checkpoint in bfloat16.")
        return value

    def _with(self, file: Path, changed: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- no mapping
                yield name, changed[name] if name in changed else tensors.get_tensor(name)


def _files(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    if (folder / _WEIGHTS).is_file():
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            return dict.fromkeys(file.keys(), folder / _WEIGHTS)
    try:
        listed: dict[str, str] = json.loads((folder / _INDEX).read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise BrokenWeights(f"{folder} has no {_WEIGHTS} and no {_INDEX} that can be read. Copy it again.") from error
    return {name: folder / file for name, file in listed.items()}
