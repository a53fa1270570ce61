"""Apply and revert deltas on live weights, with proof.

What changes weights is written into them, and here is how; what acts beside them (memories, text) is in `Beside`.
A touched parameter is always rebuilt from its recorded base bytes, never changed by a difference:

    W = cast(W0 + sum_i scale_i change_i)         float64, summed in the order of the deltas' digests

so the weights depend on the set of applied deltas alone, not on the order of applying. Entries whose sum is zero keep
their base bytes (a negative zero too). With no delta left, the recorded bytes are copied back and their hash is
compared with the one taken before the first change. Values are copied in place, so tied weights stay tied.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from catechism.arch import Matrix
from catechism.delta import Delta, Dense, LowRank
from catechism.delta.low_rank import tensor_bytes
from catechism.errors import (
    ArchitectureMismatch,
    BrokenWeights,
    NonFiniteDelta,
    NotApplied,
    RevertError,
    ShapeMismatch,
    UsageError,
    WrongBase,
)
from catechism.hashing import PREFIX, digest_json
from catechism.model.beside import Beside

_CHUNK = 1 << 22  # entries hashed at a time, so that widening needs little memory
_EXACT_IN_FLOAT32 = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False)
class Applied:
    """A delta on a model. Each `apply` gives its own, also for the same delta twice."""

    delta: Delta
    scale: float


@dataclass(frozen=True, eq=False)
class _Original:
    """A parameter as it was before the first delta."""

    name: str
    parameter: nn.Parameter
    base: Tensor  # clone of the bytes
    digest: str


def digest_tensor(tensor: Tensor) -> str:
    """Address of a tensor's shape and values.

    Half-precision values are widened to float32 first, which is exact and keeps the sign of zero: a checkpoint has
    the same address in its own type and in a wider one.

    Raises: BrokenWeights for a tensor without bytes (on the meta device, offloaded to disk).
    """
    if tensor.device.type == "meta":
        raise BrokenWeights("A tensor is offloaded and has no bytes here. Open the model with device_map=None.")
    flat = tensor.detach().reshape(-1)
    wide = torch.float32 if tensor.dtype in _EXACT_IN_FLOAT32 else tensor.dtype
    header = f"{wide}{tuple(tensor.shape)}".encode()
    h = hashlib.sha256(header)
    for start in range(0, len(flat), _CHUNK):
        h.update(tensor_bytes(flat[start : start + _CHUNK].to(wide)))
    return PREFIX + h.hexdigest()


class Surgeon:
    """Keeps the recorded bytes of touched parameters and the list of deltas that are on a model.

    Args:
        model: whose weights are changed, in place.
        matrix: finds a matrix of this model by its address.
        beside: takes what acts beside the weights.
    """

    def __init__(self, model: nn.Module, matrix: Callable[[str], Matrix], beside: Beside) -> None:
        self._model = model
        self._matrix = matrix
        self._beside = beside
        self._originals: dict[str, _Original] = {}
        self._applied: list[Applied] = []

    @cached_property
    def base_digests(self) -> dict[str, str]:
        """Digest of every parameter before any delta. Tied parameters count once, under their first name."""
        return {name: digest_tensor(parameter) for name, parameter in self._model.named_parameters()}

    @property
    def base(self) -> str:
        """Digest of all parameters before any delta."""
        return digest_json(self.base_digests)

    @property
    def applied(self) -> tuple[Applied, ...]:
        """What is on the model, in the order of applying."""
        return tuple(self._applied)

    @property
    def recorded(self) -> dict[str, Tensor]:
        """The recorded value of every parameter that a delta on the model changes, by name. Not to be written to."""
        names = sorted({name for applied in self._applied for name in self._names(applied)})
        return {name: self._originals[name].base for name in names}

    def digest(self, *, full: bool = False) -> str:
        """Digest of all parameters now, and of what acts beside them, if anything does.

        Only touched parameters are hashed again unless `full`.
        """
        if full:
            found = {name: digest_tensor(p) for name, p in self._model.named_parameters()}
        else:
            touched = {name: digest_tensor(original.parameter) for name, original in self._originals.items()}
            found = {**self.base_digests, **touched}
        return digest_json({**found, **self._beside.digests})

    def apply(self, delta: Delta, *, scale: float) -> Applied:
        """Put a delta on. Raises WrongBase, ShapeMismatch, NonFiniteDelta, UsageError; then nothing has changed."""
        if not math.isfinite(scale):
            raise UsageError(f"scale={scale} is not finite. Use a number such as 1.0.")
        if delta.base != self.base:
            raise WrongBase(
                f"Delta {delta.digest} was made for base {delta.base}, this model is {self.base}. "
                "Open the model that it was made for, or fit it again on this one."
            )
        if not delta.is_finite():
            raise NonFiniteDelta(f"Delta {delta.digest} holds NaN or infinity. Fit it again; do not apply it.")
        self._beside.check(delta, scale)
        names = {self._record(address, part.shape).name for address, part in _weights(delta)}
        applied = Applied(delta, float(scale))
        self._switch([*self._applied, applied], names)
        return applied

    def revert(self, applied: Applied) -> None:
        """Take one delta off. Raises NotApplied, RevertError."""
        if applied not in self._applied:
            raise NotApplied(f"Delta {applied.delta.digest} is not on the model. Look at `applied` for what is.")
        self._switch([a for a in self._applied if a is not applied], self._names(applied))

    def revert_all(self) -> None:
        """Take everything off. Raises RevertError."""
        self._switch([], {name for applied in self._applied for name in self._names(applied)})

    # -- the work ----------------------------------------------------------------------------------------------------

    @cached_property
    def _name_of(self) -> dict[int, str]:
        """First name of every parameter by identity: a tied parameter may be addressed through its second name."""
        return {id(parameter): name for name, parameter in self._model.named_parameters()}

    def _names(self, applied: Applied) -> set[str]:
        return {self._name_of[id(self._matrix(address).parameter)] for address, _ in _weights(applied.delta)}

    def _record(self, address: str, shape: tuple[int, int]) -> _Original:
        """Check that a part fits its matrix and that the parameter is the base's, and keep its bytes."""
        matrix = self._matrix(address)
        name = self._name_of.get(id(matrix.parameter))
        if name is None or not matrix.parameter.is_floating_point():
            raise ArchitectureMismatch(
                f"{address} has dtype {matrix.parameter.dtype} and is not a floating-point parameter of the model. "
                "Open the model with dtype='bfloat16' or 'float32', without quantisation or wrappers."
            )
        if tuple(shape) != tuple(matrix.shape):
            raise ShapeMismatch(
                f"The delta's part for {address} is {tuple(shape)}, the matrix is {tuple(matrix.shape)} (d_out, d_in). "
                "Use a delta that was made for this model."
            )
        if any(name in self._names(applied) for applied in self._applied):
            return self._originals[name]
        digest = digest_tensor(matrix.parameter)
        if digest != self.base_digests[name]:
            raise WrongBase(
                f"{name} was changed by other means since the model was opened. Open the model again, "
                "and change it through deltas only."
            )
        if name not in self._originals:
            self._originals[name] = _Original(name, matrix.parameter, matrix.parameter.detach().clone(), digest)
        return self._originals[name]

    def _switch(self, wanted: list[Applied], names: Iterable[str]) -> None:
        """Make the named parameters what `wanted` says. All are computed before the first is written."""
        ordered = sorted(names)
        values = {name: self._rebuilt(self._originals[name], wanted) for name in ordered}
        written: list[str] = []
        try:
            for name in ordered:
                written.append(name)
                self._write(name, values[name])
        except BaseException:  # an interrupt too must not leave half a delta behind
            for name in written:
                self._write(name, self._rebuilt(self._originals[name], self._applied))
            raise
        self._applied = wanted
        self._beside.put((applied.delta, applied.scale) for applied in wanted)
        for name in ordered:
            original = self._originals[name]
            if values[name] is original.base:
                self._prove(original)

    def _write(self, name: str, value: Tensor) -> None:
        with torch.no_grad():
            self._originals[name].parameter.copy_(value)

    @torch.no_grad()
    def _rebuilt(self, original: _Original, wanted: Iterable[Applied]) -> Tensor:
        """The parameter's value under the wanted deltas; the recorded clone itself if none of them touches it."""
        base = original.base
        parts = [
            (applied, self._matrix(address), part)
            for applied in sorted(wanted, key=lambda a: (a.delta.digest, a.scale))
            for address, part in _weights(applied.delta)
            if applied.scale != 0
        ]
        parts = [item for item in parts if item[1].parameter is original.parameter]
        if not parts:
            return base
        update = torch.zeros_like(base, dtype=torch.float64)
        for applied, matrix, part in parts:
            matrix.select(update).add_(_change(part, base.device), alpha=applied.scale)
        value = torch.where(update == 0, base, (base.double() + update).to(base.dtype))
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteDelta(
                f"{original.name} would overflow {base.dtype} with this delta. Lower `scale`, or open the model in "
                "bfloat16 or float32."
            )
        return value

    def _prove(self, original: _Original) -> None:
        found = digest_tensor(original.parameter)
        if found != original.digest:
            raise RevertError(
                f"{original.name} is {found} after the revert, recorded was {original.digest}. "
                "Do not use this model any more: open it again."
            )


def _weights(delta: Delta) -> list[tuple[str, LowRank | Dense]]:
    """The parts that change weights, by address. `Delta` keeps its parts sorted."""
    return [(key, part) for key, part in delta.parts.items() if isinstance(part, LowRank | Dense)]


def _change(part: LowRank | Dense, device: torch.device) -> Tensor:
    """A change in float64, multiplied on the device."""
    if isinstance(part, Dense):
        return part.values.to(device, torch.float64)
    return part.A.to(device, torch.float64) @ part.B.to(device, torch.float64)
