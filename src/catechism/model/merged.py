"""Copies of a live model that stand by themselves: with its deltas merged, without them, or with some of both."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from catechism.delta import Delta, Gated
from catechism.delta.part import Text
from catechism.model.live import LiveModel

_Thing = TypeVar("_Thing")


def merged(live: LiveModel) -> LiveModel:
    """A copy whose weights are base and deltas together. No delta changes its weights, so whoever has it may.

    Memories and texts cannot be merged; they are carried along as deltas of the copy, with their scale in them.
    """
    return _copy(live, {}, name=f"{live.name}, merged")


def unedited(live: LiveModel) -> LiveModel:
    """A copy as the model was before any delta: no memory, no text, the recorded weights."""
    return _copy(live, live.recorded, beside=False, name=f"{live.name}, before")


def half_reset(live: LiveModel, *, seed: int, other: bool = False) -> LiveModel:
    """A merged copy in which half of what the deltas changed in the weights is as it was before.

    With two changed parameters or more whole ones are put back (half fine-tuning's split, arXiv:2404.18466, turned on
    an edit); of a single one, half of its rows are. Memories and texts stay.

    Args:
        live: the model with its deltas.
        seed: of the draw.
        other: take the half that the same seed leaves.
    """
    recorded, rng = live.recorded, random.Random(f"half-{seed}")
    names = sorted(recorded)
    if len(names) == 1:
        value = dict(live.model.named_parameters())[names[0]].detach().clone()
        back = torch.tensor(_half(list(range(len(value))), rng, other), device=value.device)
        value[back] = recorded[names[0]][back]
        values = {names[0]: value}
    else:
        values = {name: recorded[name] for name in _half(names, rng, other)}
    return _copy(live, values, name=f"{live.name}, half reset")


def _half(things: list[_Thing], rng: random.Random, other: bool) -> list[_Thing]:
    rng.shuffle(things)
    middle = (len(things) + 1) // 2
    return things[middle:] if other else things[:middle]


def _copy(live: LiveModel, values: Mapping[str, Tensor], *, name: str, beside: bool = True) -> LiveModel:
    """The model with these values of its parameters, and what stands beside it put on again unless told otherwise."""
    wanted = [(applied.delta, applied.scale) for applied in live.applied]
    live.beside.put([])  # hooks of memories point at the model that they are on
    try:
        model = copy.deepcopy(live.model)
    finally:
        live.beside.put(wanted)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for parameter_name, value in values.items():
            parameters[parameter_name].copy_(value)
    found = LiveModel(model, live.tokenizer, name=name)
    for delta, scale in wanted if beside else ():
        parts = {key: part.scaled(scale) for key, part in delta.parts.items() if isinstance(part, Gated | Text)}
        if parts and scale != 0:
            found.apply(Delta(found.base, parts, {"carried": delta.digest}))
    return found
