"""Tensors by name with plain settings beside them: what the kinds of change that are more than a matrix are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from catechism.delta.low_rank import DTYPES, tensor_bytes
from catechism.errors import ShapeMismatch
from catechism.types import JSON

#: The element types a piece may have beside those of a matrix.
INTEGERS: dict[torch.dtype, str] = {torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64"}
STORED: dict[torch.dtype, str] = {**DTYPES, **INTEGERS}

#: How a setting is annotated -> the JSON that it may be.
_SETTINGS: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "tuple[str, ...]": list}


class Piece:
    """Base of frozen dataclasses whose fields are tensors and settings (int, float, str, bool, tuple of str).

    A subclass names itself with `kind`, and checks what it is given in ``__post_init__``. Its header and tensors are
    all there is to it, so it is written, read, hashed and compared here once for all.
    """

    kind: ClassVar[str]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in the order of the fields."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type not in _SETTINGS}  # type: ignore[arg-type]

    def settings(self) -> dict[str, JSON]:
        """The other fields, as JSON."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.type in _SETTINGS}  # type: ignore[arg-type]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def header(self) -> dict[str, JSON]:
        """Kind, settings, and shape and dtype of every tensor."""
        tensors: dict[str, JSON] = {
            name: {"dtype": STORED[t.dtype], "shape": list(t.shape)} for name, t in self.tensors().items()
        }
        return {**self.settings(), "kind": self.kind, "tensors": tensors}

    @classmethod
    def build(cls, header: Mapping[str, JSON], tensors: Mapping[str, Tensor]) -> Any:
        """The piece that has this header and these tensors.

        Raises: ShapeMismatch for a field that is missing, or is not what it has to be.
        """
        given: dict[str, Any] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            wanted = _SETTINGS.get(str(field.type), Tensor)
            value: Any = tensors.get(field.name) if wanted is Tensor else header.get(field.name)
            if type(value) is not wanted or (wanted is list and not all(type(text) is str for text in value)):
                raise ShapeMismatch(
                    f"{cls.kind}: {field.name!r} is {value!r}, not {field.type}. Write it as its kind says."
                )
            given[field.name] = tuple(value) if wanted is list else value
        return cls(**given)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def is_finite(self) -> bool:
        """False if a tensor or a setting holds NaN or infinity."""
        numbers = [value for value in self.settings().values() if isinstance(value, float)]
        return all(map(math.isfinite, numbers)) and all(bool(torch.isfinite(t).all()) for t in self.tensors().values())

    def equals(self, other: object) -> bool:
        """Same header and the same bytes in every tensor."""
        if not isinstance(other, type(self)) or self.header() != other.header():
            return False
        ours, theirs = self.tensors(), other.tensors()
        return all(tensor_bytes(ours[name]) == tensor_bytes(theirs[name]) for name in ours)

    def _check(self, **shapes: tuple[int | None, ...]) -> None:
        """Make the tensors contiguous and hold each to a shape (None is any length) and to a dtype that can be kept."""
        for name, tensor in self.tensors().items():
            shape = shapes[name]
            fits = tensor.ndim == len(shape) and all(
                want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
            )
            if not fits or tensor.dtype not in STORED:
                said = ", ".join("any" if n is None else str(n) for n in shape)
                raise ShapeMismatch(
                    f"{self.kind}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, expected ({said}) of one of "
                    f"{', '.join(STORED.values())}. Give tensors that belong together."
                )
            object.__setattr__(self, name, tensor.detach().contiguous())
