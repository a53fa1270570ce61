"""Read and change activations of a live model by role and layer. Everything is put back when the block ends.

Only PyTorch's own hooks are used. Hooks run in the order in which they were set: a `record` opened inside a `patch`
sees the patched values, one opened around it sees the values before the patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from catechism.arch import Anatomy
from catechism.errors import UsageError
from catechism.types import Site

What = Literal["input", "output"]


class Part(StrEnum):
    """A piece of the network that is larger than one matrix."""

    BLOCK = "block"
    ATTENTION = "attention"
    MLP = "mlp"


@dataclass(frozen=True, slots=True)
class BlockSite:
    """A whole block, or the attention or the MLP inside it."""

    layer: int
    part: Part = Part.BLOCK


Place = Site | BlockSite


@runtime_checkable
class _HasAnatomy(Protocol):
    @property
    def anatomy(self) -> Anatomy: ...


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A change of activations at chosen places of a batch.

    Attributes:
        site: the matrix, block, attention or MLP.
        rows, tokens: the k positions; negative numbers count from the end.
        value: what goes there, ``(k, d)``, or ``(d,)`` for all of them. Gradients flow into it.
        mode: add to the activation, or replace it.
        what: change the module's input (a matrix's key) or its output (its value).
    """

    site: Place
    rows: Sequence[int] | Int[Tensor, " k"]
    tokens: Sequence[int] | Int[Tensor, " k"]
    value: Float[Tensor, "k d"] | Float[Tensor, " d"]
    mode: Literal["add", "replace"] = "add"
    what: What = "output"

    def __post_init__(self) -> None:
        if self.mode not in ("add", "replace"):
            raise UsageError(f"mode={self.mode!r} is no way to patch. Use 'add' or 'replace'.")


#: Activations by site, ``(b, t, d)``, those of the latest forward pass.
Recording = dict[Place, Tensor]


class _Enough(Exception):  # noqa: N818 -- a signal, not an error
    """Ends a forward pass whose remaining layers nobody needs."""


class _BatchShape:
    """The (b, t) of the running forward pass: some blocks flatten both axes before their MLP or router."""

    def __init__(self) -> None:
        self.shape: tuple[int, int] | None = None

    def see(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = _first_tensor(args, kwargs)
        self.shape = (int(ids.shape[0]), int(ids.shape[1])) if ids.ndim == 2 else None

    def unflatten(self, x: Tensor) -> Tensor:
        if x.ndim == 2 and self.shape is not None and x.shape[0] == self.shape[0] * self.shape[1]:
            return x.unflatten(0, self.shape)
        return x


@contextmanager
def record(
    target: Anatomy | _HasAnatomy, sites: Sequence[Place], *, what: What = "input", stop: bool = False
) -> Iterator[Recording]:
    """Record the inputs (keys) or outputs (values) of sites in the forward passes of the body.

    Tensors are kept as they are, so they carry gradients when the pass does.

    Args:
        target: a `LiveModel` or an `Anatomy`.
        sites: matrices, blocks, attentions, MLPs.
        what: which side of each module.
        stop: end the pass as soon as every site is recorded. The rest of the model is not computed, and the body
            ends there too: let the call of the model be its last statement.
    """
    anatomy = _anatomy(target)
    recording: Recording = {}
    with ExitStack() as stack:
        shape = _watch_shape(anatomy, stack)
        for site in dict.fromkeys(sites):
            module = _module(anatomy, site, what)

            def keep(x: Tensor, site: Place = site) -> None:
                recording[site] = shape.unflatten(x)
                if stop and len(recording) == wanted:
                    raise _Enough

            _hook(stack, module, what, keep)
        wanted = len(set(sites))
        with suppress(_Enough):
            yield recording


@contextmanager
def patch(target: Anatomy | _HasAnatomy, *patches: Patch) -> Iterator[None]:
    """Replace or add to activations at chosen rows and tokens in the forward passes of the body.

    Gradients flow into the patch's value. Several patches of one site are applied in the order given.

    Raises: UsageError for a value that does not fit, when the site is reached.
    """
    anatomy = _anatomy(target)
    with ExitStack() as stack:
        shape = _watch_shape(anatomy, stack)
        for change in patches:

            def apply(x: Tensor, change: Patch = change) -> Tensor:
                return _changed(shape.unflatten(x), change).reshape(x.shape)

            _hook(stack, _module(anatomy, change.site, change.what), change.what, apply)
        yield


@contextmanager
def select_logits(
    target: Anatomy | _HasAnatomy, rows: Int[Tensor, " k"] | Sequence[int], positions: Int[Tensor, " k"] | Sequence[int]
) -> Iterator[None]:
    """Compute logits only at k (row, position) pairs: ``output.logits`` is ``(k, v)`` within the body.

    The vocabulary is the widest matrix of most models; a value search needs a handful of its rows.
    """
    anatomy = _anatomy(target)

    def pick(x: Tensor) -> Tensor:
        return x[torch.as_tensor(rows, device=x.device), torch.as_tensor(positions, device=x.device)]

    with ExitStack() as stack:
        _hook(stack, anatomy.head, "input", pick)
        yield


@contextmanager
def select_tokens(
    target: Anatomy | _HasAnatomy, layer: int, rows: Int[Tensor, " k"], positions: Int[Tensor, " k"]
) -> Iterator[None]:
    """Compute a layer's MLP only at k (row, position) pairs; elsewhere it gives zeros.

    For a last block of which only some positions are looked at: an MLP takes every token by itself.
    """
    anatomy, shape = _anatomy(target), torch.Size()

    def where(x: Tensor) -> tuple[Tensor, ...]:
        return (rows, positions) if x.ndim == 3 else (rows * tokens + positions,)

    def pick(x: Tensor) -> Tensor:
        nonlocal shape
        shape = x.shape
        picked = x[where(x)]
        return picked[None] if x.ndim == 3 else picked

    def put_back(y: Tensor) -> Tensor:
        whole = y.new_zeros(*shape[:-1], y.shape[-1])
        return whole.index_put(where(whole), y.reshape(-1, y.shape[-1]))

    tokens = 0

    def see(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal tokens
        tokens = int(_first_tensor(args, kwargs).shape[1])

    with ExitStack() as stack:
        first, last = anatomy.mlp_ends(layer)
        stack.callback(anatomy.block(layer).register_forward_pre_hook(see, with_kwargs=True).remove)
        _hook(stack, first, "input", pick)
        _hook(stack, last, "output", put_back)
        yield


def _anatomy(target: Anatomy | _HasAnatomy) -> Anatomy:
    return target if isinstance(target, Anatomy) else target.anatomy


def _module(anatomy: Anatomy, site: Place, what: What) -> nn.Module:
    if isinstance(site, Site):
        return anatomy.module(site)
    if site.part == Part.MLP:
        first, last = anatomy.mlp_ends(site.layer)
        return first if what == "input" else last
    return anatomy.block(site.layer) if site.part == Part.BLOCK else anatomy.attention(site.layer)


def _watch_shape(anatomy: Anatomy, stack: ExitStack) -> _BatchShape:
    shape = _BatchShape()
    handle = anatomy.embed.register_forward_pre_hook(shape.see, with_kwargs=True)
    stack.callback(handle.remove)
    return shape


def _hook(stack: ExitStack, module: nn.Module, what: What, see: Callable[[Tensor], Tensor | None]) -> None:
    """Show the main tensor of a module's input or output to `see`, and put in what it returns, if anything."""

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = see(_first_tensor(args, kwargs))
        if new is None:
            return None
        if args and isinstance(args[0], Tensor):
            return (new, *args[1:]), kwargs
        return args, {**kwargs, _main_name(kwargs): new}

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        new = see(output if isinstance(output, Tensor) else output[0])
        if new is None:
            return None
        return new if isinstance(output, Tensor) else (new, *output[1:])

    if what == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    elif what == "output":
        handle = module.register_forward_hook(after)
    else:
        raise UsageError(f"what={what!r} is not a side of a module. Use 'input' or 'output'.")
    stack.callback(handle.remove)


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args and isinstance(args[0], Tensor) else kwargs[_main_name(kwargs)]


def _main_name(kwargs: dict[str, Any]) -> str:
    """The keyword that carries the activation when a module is called by keywords."""
    return "hidden_states" if "hidden_states" in kwargs else next(k for k, v in kwargs.items() if isinstance(v, Tensor))


def _changed(x: Float[Tensor, "b t d"], change: Patch) -> Float[Tensor, "b t d"]:
    rows = torch.as_tensor(change.rows, device=x.device)
    tokens = torch.as_tensor(change.tokens, device=x.device)
    k, d = rows.numel(), int(x.shape[-1])
    if x.ndim != 3 or tokens.numel() != k or tuple(change.value.shape) not in ((d,), (k, d)):
        raise UsageError(
            f"Patch of {change.site} has {k} rows, {tokens.numel()} tokens and a value of shape "
            f"{tuple(change.value.shape)} on an activation of shape {tuple(x.shape)}. Give as many tokens as rows and "
            f"a value of shape ({k}, {d}) or ({d},)."
        )
    value = change.value.to(device=x.device, dtype=x.dtype).expand(k, d)
    return x.index_put((rows, tokens), value, accumulate=change.mode == "add")
