"""The kinds of change that a delta may hold: a closed list, with what has to be said for each.

A part's key in a delta says where it acts, and so what it may be:

    MATRIX          LowRank, Dense    the matrix's weight is changed
    MATRIX#NAME     Gated             beside the matrix; several memories at one matrix have different names
    #NAME           Context, Recall   beside the model
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from catechism.delta.context import Context
from catechism.delta.dense import Dense
from catechism.delta.gated import Gated
from catechism.delta.low_rank import LowRank
from catechism.delta.recall import Recall
from catechism.errors import ShapeMismatch, UsageError
from catechism.types import JSON

#: One change of one matrix, or beside it, or beside the model.
Part = LowRank | Dense | Gated | Context | Recall
Weight = LowRank | Dense
Text = Context | Recall

KINDS: Mapping[str, type[LowRank] | type[Dense] | type[Gated] | type[Context] | type[Recall]] = {
    kind.kind: kind for kind in (LowRank, Dense, Gated, Context, Recall)
}
_BESIDE = "#"


def matrix_of(key: str) -> str:
    """Address of the matrix that a part acts on or beside; "" for one beside the model."""
    return key.partition(_BESIDE)[0]


def check_key(key: object, part: object) -> None:
    """Raise UsageError for an empty key, ShapeMismatch for no part at all or one under the key of another kind."""
    if not isinstance(key, str) or not key:
        raise UsageError(f"A part is keyed by the address of its matrix, got {key!r}. Give a full name.")
    if not isinstance(part, Part):
        raise ShapeMismatch(f"The part {key!r} is a {type(part).__name__}. Make it a LowRank(A, B), or another kind.")
    matrix, mark, name = key.partition(_BESIDE)
    wanted = {"low_rank": "MATRIX", "dense": "MATRIX", "gated": "MATRIX#NAME", "context": "#NAME", "recall": "#NAME"}[
        part.kind
    ]
    found = ("MATRIX" if matrix else "") + mark + ("NAME" if name else "")
    if found != wanted or _BESIDE in name:
        raise ShapeMismatch(f"The part {key!r} is of kind {part.kind!r}. Key it as {wanted}.")


def plus(a: Part, b: Part) -> Part:
    """Both changes at one key. Two low-rank changes add without rounding; with a dense one the sum is dense.

    Raises: ShapeMismatch for changes that do not add: other shapes, other settings, or other kinds.
    """
    match a, b:
        case LowRank(), LowRank():
            return a + b
        case LowRank() | Dense(), LowRank() | Dense():
            return _dense_sum(a, b)
        case Gated(), Gated():
            return a.joined(b)
        case Context(), Context():
            return a.joined(b)
        case Recall(), Recall():
            return a.joined(b)
        case _:
            raise ShapeMismatch(
                f"A change of kind {a.kind!r} and one of kind {b.kind!r} do not add. Key them apart, MATRIX for a "
                "weight and MATRIX#NAME for a memory."
            )


def _dense_sum(a: Weight, b: Weight) -> Dense:
    """Added in float64, rounded once to the wider of the two types."""
    if a.shape != b.shape:
        raise ShapeMismatch(
            f"Cannot add a change of shape {b.shape} to one of shape {a.shape}. Add only changes of the same matrix."
        )
    total = a.dense(torch.float64)
    return Dense((total + b.dense(torch.float64).to(total.device)).to(torch.promote_types(a.dtype, b.dtype)))


def tensor_names(header: Mapping[str, JSON]) -> list[str]:
    """Names of the tensors that a part with this header has. Raises KeyError, TypeError for no header of a part."""
    match header["kind"]:
        case "low_rank":
            return ["A", "B"]
        case "dense":
            return ["values"]
        case "gated":
            return Gated.names(header)
        case "recall":
            return Recall.names(header)
        case "context":
            return list(header["tensors"])  # type: ignore[arg-type]
        case kind:
            raise KeyError(kind)


def build(header: Mapping[str, JSON], tensors: Mapping[str, Tensor]) -> Part:
    """The part with this header and these tensors. Raises ShapeMismatch, KeyError, TypeError where they do not fit."""
    match header["kind"]:
        case "low_rank":
            return LowRank(tensors["A"], tensors["B"])
        case "dense":
            return Dense(tensors["values"])
        case "gated":
            return Gated.build(header, tensors)
        case "context":
            return Context.build(header, tensors)
        case "recall":
            return Recall.build(header, tensors)
        case kind:
            raise KeyError(kind)
