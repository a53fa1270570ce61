"""Conditional memory at work: gated changes beside the matrices of a live model.

In the pass that reads a prompt every row is matched with the stored addresses, once; what it matched stays with the
row, and with its keys and values while a continuation is decoded. A row that matches nothing leaves the matrix as it
was, to the last bit. Several memories of one matrix that can be compared are one table in which the nearest entry acts,
so the order of applying plays no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from catechism.arch import Anatomy
from catechism.delta import Gated, matrix_of
from catechism.delta.address import Address, Feature, Reading, last_tokens
from catechism.delta.effect import Effect, Firing
from catechism.errors import ArchitectureMismatch, RevertError, ShapeMismatch, UsageError
from catechism.model.trace import BlockSite, Part, Place, Recording, record
from catechism.types import Role, Site


@dataclass(eq=False)
class Frame:
    """What is known of the rows of one pass.

    Attributes:
        prompt: the tokens of this pass that are the prompt's; none of them while a continuation is decoded.
        fresh: whether this pass reads the prompt.
        chosen: by matrix and table: the entry that acts in each row, or -1.
    """

    prompt: Bool[Tensor, "b t"]
    fresh: bool
    chosen: dict[tuple[str, int], Int[Tensor, " b"]] = field(default_factory=dict)

    def select(self, rows: Int[Tensor, " r"]) -> Frame:
        """The same for some of the rows."""
        return Frame(self.prompt[rows], self.fresh, {at: entry[rows] for at, entry in self.chosen.items()})


class Memories:
    """The memories that are on a model, as hooks.

    Args:
        anatomy: of the model.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._stack = ExitStack()
        self._hooks: set[tuple[int, int]] = set()
        self._tables: dict[str, list[_Table]] = {}
        self._recordings: dict[str, Recording] = {}
        self._frame: Frame | None = None
        self._ends: Sequence[int] | None = None
        self._kept: WeakKeyDictionary[Any, dict[tuple[str, int], Tensor]] = WeakKeyDictionary()

    def check(self, key: str, part: Gated) -> None:
        """Raise ShapeMismatch, ArchitectureMismatch or UnknownName if a memory does not fit its matrix."""
        address = matrix_of(key)
        matrix = self._anatomy.matrix(address)
        if address != matrix.parameter_name.rpartition(".")[0] or matrix.expert is not None:
            raise ArchitectureMismatch(
                f"{key} stands beside {address}, which is no module of its own. Put a memory beside a linear module."
            )
        if tuple(part.shape) != tuple(matrix.shape):
            raise ShapeMismatch(
                f"The delta's part for {key} is {part.shape}, the matrix is {tuple(matrix.shape)} (d_out, d_in). "
                "Use a delta that was made for this model."
            )
        layer = self._layer_of(address)
        for feature in part.address.features:
            self._anatomy.block(feature.layer)
            late = feature.side == "output" and feature.place in ("block", "mlp")
            if feature.layer > layer or (feature.layer == layer and late):
                raise ShapeMismatch(
                    f"{key} is recognised by the {feature.side} of {feature.place} in layer {feature.layer}, which is "
                    f"not there yet when layer {layer} is reached. Read a feature of an earlier layer."
                )

    def install(self, parts: Sequence[tuple[str, Gated]]) -> None:
        """Let these memories, and no others, act. They have passed `check`; their order is that of their sums."""
        self._remove()
        grouped: dict[str, list[Gated]] = {}
        for key, part in parts:
            grouped.setdefault(matrix_of(key), []).append(part)
        if not grouped:
            return
        before, model = _hooks_of(self._anatomy.model), self._anatomy.model
        self._stack.callback(model.register_forward_pre_hook(self._open, with_kwargs=True).remove)
        self._stack.callback(model.register_forward_hook(self._close, with_kwargs=True).remove)
        features = {feature for _, part in parts for feature in part.address.features}
        for side in ("input", "output"):
            places = sorted({place_of(f) for f in features if f.side == side}, key=str)
            self._recordings[side] = self._stack.enter_context(record(self._anatomy, places, what=side))
        for address, memories in grouped.items():
            self._tables[address] = _tables(memories)

            def act(_module: nn.Module, args: tuple[Any, ...], output: Tensor, address: str = address) -> Tensor | None:
                return self._act(address, args[0], output)

            self._stack.callback(model.get_submodule(address).register_forward_hook(act).remove)
        self._hooks = _hooks_of(model) - before

    def _remove(self) -> None:
        self._stack.close()
        self._tables, self._recordings, self._frame = {}, {}, None
        self._kept.clear()
        left = self._hooks & _hooks_of(self._anatomy.model)
        if left:
            raise RevertError(f"{len(left)} hooks of a memory are still on the model. Open it again.")
        self._hooks = set()

    # -- what a pass is about ----------------------------------------------------------------------------------------

    @contextmanager
    def prompts(self, ends: Sequence[int]) -> Iterator[None]:
        """In the passes of the body only the first ``ends[i]`` tokens of row i, padding not counted, are the prompt."""
        before, self._ends = self._ends, list(ends)
        try:
            yield
        finally:
            self._ends = before

    @property
    def on(self) -> bool:
        """Whether any memory is on the model."""
        return bool(self._tables)

    @property
    def frame(self) -> Frame | None:
        """The rows of the latest pass; None where no memory is on."""
        return self._frame

    @contextmanager
    def resumed(self, frame: Frame | None) -> Iterator[None]:
        """For blocks that are run by themselves: their rows are those of an earlier pass."""
        before, self._frame = self._frame, frame
        try:
            yield
        finally:
            self._frame = before

    def _open(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = args[0] if args else kwargs.get("input_ids")
        rows = kwargs["inputs_embeds"] if rows is None else rows
        b, t = int(rows.shape[0]), int(rows.shape[1])
        cache = _cache_in(kwargs)
        if cache is not None and cache.get_seq_length() > 0:
            chosen = self._kept.get(cache)
            if chosen is None or any(len(entry) != b for entry in chosen.values()):
                raise UsageError(
                    "These keys and values were made before the memories on the model were applied, or for other rows, "
                    "so nothing says which edits the rows matched. Start again from the prompts."
                )
            self._frame = Frame(torch.zeros(b, t, dtype=torch.bool, device=rows.device), False, chosen)
            return
        mask = kwargs.get("attention_mask")
        prompt = torch.ones(b, t, dtype=torch.bool, device=rows.device)
        if isinstance(mask, Tensor) and mask.ndim == 2:  # other masks say who sees whom, and not what is padding
            prompt = mask[:, -t:].bool()
        if self._ends is not None:
            if len(self._ends) != b:
                raise UsageError(f"The ends of {len(self._ends)} prompts for {b} rows. Give one for every row.")
            ends = torch.tensor(self._ends, device=prompt.device)
            prompt = prompt & (prompt.cumsum(dim=1) <= ends[:, None])
        self._frame = Frame(prompt, True)

    def _close(self, _model: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
        cache = _cache_in(output) if isinstance(output, dict) else None
        if cache is not None and self._frame is not None:
            self._kept[cache] = self._frame.chosen

    # -- what a memory does ------------------------------------------------------------------------------------------

    def _act(self, address: str, x: Tensor, y: Tensor) -> Tensor | None:
        frame = self._frame
        if frame is None:
            raise UsageError(
                f"A part of the model with {address} in it was run outside a pass of the model, so nothing says which "
                "edits its rows matched. Call the model, or take the memory off first."
            )
        x, flat = (x.unflatten(0, frame.prompt.shape), True) if x.ndim == 2 else (x, False)
        before = y.unflatten(0, frame.prompt.shape) if flat else y
        after = before
        for number, table in enumerate(self._tables[address]):
            at = address, number
            if at not in frame.chosen:
                features = tuple(self._recordings[f.side][place_of(f)] for f in table.address.features)
                frame.chosen[at] = table.match(features, frame, x, before)
            after = table.changed(frame.chosen[at], frame, x, before, after)
        return None if after is before else after.reshape(y.shape)

    def _layer_of(self, address: str) -> int:
        prefix = f"{self._anatomy.arch.layers}."
        number = address.removeprefix(prefix).partition(".")[0]
        if not address.startswith(prefix) or not number.isdecimal():
            raise ArchitectureMismatch(f"{address} lies in no block. Put a memory beside a matrix of a block.")
        return int(number)


class _Table:
    """Memories of one matrix that can be compared: one address for all, and each one's own effect."""

    def __init__(self, address: Address, parts: Sequence[Gated]) -> None:
        self.address = address
        self._parts = list(parts)
        self._moved: dict[torch.device, tuple[Address, list[Effect], list[Tensor]]] = {}

    def join(self, part: Gated) -> bool:
        """Take one more in, if its address can be compared with these."""
        try:
            self.address = self.address.joined(part.address)
        except ShapeMismatch:
            return False
        self._parts.append(part)
        return True

    @torch.no_grad()
    def match(self, features: tuple[Tensor, ...], frame: Frame, x: Tensor, y: Tensor) -> Int[Tensor, " b"]:
        """The entry that acts in each row, numbered through all parts."""

        def change(entry: Tensor) -> Tensor:
            return self.changed(entry, frame, x, y, torch.zeros_like(y, dtype=torch.float32))

        address = self._here(x.device)[0]
        return address.match(Reading(features, frame.prompt, x, y, change))[0].to(x.device)

    def changed(self, entry: Tensor, frame: Frame, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """`after` with what the entries add; rows without an entry are not touched."""
        if not bool((entry >= 0).any()):
            return after
        _, effects, scales = self._here(x.device)
        last = torch.zeros_like(frame.prompt)
        if frame.fresh:
            last[torch.arange(len(last), device=last.device), last_tokens(frame.prompt)] = True
        first = 0
        for effect, scale in zip(effects, scales, strict=True):
            rows = ((entry >= first) & (entry < first + len(scale))).nonzero()[:, 0]
            if len(rows):
                own = entry[rows] - first
                change = effect.change(Firing(own, x[rows], before[rows], last[rows].to(x.device)))
                change = change.float() * scale[own][:, None, None]
                after = after.index_put((rows,), (after[rows].float() + change).to(after.dtype))
            first += len(scale)
        return after

    def _here(self, device: torch.device) -> tuple[Address, list[Effect], list[Tensor]]:
        """All tensors on the device of the model, moved at the first use."""
        if device not in self._moved:
            effects = [_to(part.effect, device) for part in self._parts]
            scales = [part.scales.to(device, torch.float32) for part in self._parts]
            self._moved = {device: (_to(self.address, device), effects, scales)}
        return self._moved[device]


def _tables(parts: Sequence[Gated]) -> list[_Table]:
    """Memories that can be compared together, in the order in which they come."""
    tables: list[_Table] = []
    for part in parts:
        if not any(type(table.address) is type(part.address) and table.join(part) for table in tables):
            tables.append(_Table(part.address, [part]))
    return tables


def _to(piece: Any, device: torch.device) -> Any:
    """A piece with its tensors on a device."""
    return replace(piece, **{name: tensor.to(device) for name, tensor in piece.tensors().items()})


def place_of(feature: Feature) -> Place:
    """Where a feature is read."""
    if feature.place == Role.MLP_OUT.value:
        return Site(feature.layer, Role.MLP_OUT)
    return BlockSite(feature.layer, Part(feature.place))


def _cache_in(named: dict[str, Any]) -> Any:
    """The keys and values among a model's arguments or results, by whichever name the library gives them."""
    found = dict.get(named, "cache")  # as a plain dictionary: results warn when the old name is asked for
    return dict.get(named, "past_key_values") if found is None else found


def _hooks_of(model: nn.Module) -> set[tuple[int, int]]:
    """Every hook on a model's modules, by module and number."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return {(id(module), number) for module in model.modules() for kind in kinds for number in getattr(module, kind)}
