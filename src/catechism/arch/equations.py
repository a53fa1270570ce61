"""The claims of a row as equations between what a forward pass recorded and what the row's matrices give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor, nn

from catechism.arch.anatomy import Anatomy
from catechism.arch.matrix import Matrix
from catechism.arch.mlp import apply, mixture_value, mlp_key, mlp_value
from catechism.arch.recording import Recording
from catechism.arch.table import Arch, Fusion
from catechism.types import Role, Site

T = TypeVar("T")

_FLOAT32 = 1e-4  # largest relative difference between two ways to compute the same, in float32
_HALF = 3e-2  # the same in bfloat16 and float16, whose rounding adds up along an MLP
_HALF_STREAM = 5e-3  # the same for claims that at most add recorded tensors: one or two roundings
_STREAM_CLAIMS = frozenset({"embed", "blocks", "attention", "mlp", "residual", "final"})
_EXCITED = 3.0  # size of a gate's values on random inputs: where an activation is far from any straight line

#: What each check says, in the order in which they are reported.
CLAIMS: Mapping[str, str] = {
    "embed": "the embedding reads the token ids",
    "blocks": "a block reads what the block before it wrote",
    "attention": "the attention reads the residual stream through its norm, and its result goes through attn_out",
    "mlp": "the MLP reads the residual stream through its norm, and its result goes through the output matrices",
    "residual": "a block writes the residual stream plus what attention and MLP gave",
    "attn_out": "the module is the linear map that the matrix says",
    "mlp_in": "the module is the linear map that the matrix says",
    "mlp_gate": "the module is the linear map that the matrix says",
    "mlp_out": "the module is the linear map that the matrix says",
    "mlp_key": "the output matrix reads what input, gate and activation give, on random inputs too",
    "router": "the router's logits are the linear map that the matrix says",
    "experts": "an expert called alone, on random inputs, gives what its three matrices give",
    "mixture": "the layer gives the chosen experts' values under the router's weights",
    "final": "the final norm reads the last block, and norm, projection, head and soft cap give the logits",
}

_READ_FORWARD = "Compare the row with the block's forward method: "
_FIXES: Mapping[str, str] = {
    "embed": "Name the token embedding in `embed`.",
    "blocks": "Name the list of consecutive blocks in `layers`.",
    "attention": _READ_FORWARD + "set `attn`, `attn_out`, `norms.attn` and `norm_first`.",
    "mlp": _READ_FORWARD + "set `mlp`, `mlp_in`, `mlp_out`, `norms.mlp`, `norm_first` and `parallel`.",
    "residual": _READ_FORWARD + "set `norms.attn_post`, `norms.mlp_post`, `norm_first` and `parallel`.",
    "mlp_key": _READ_FORWARD + "set `mlp_in`, `mlp_gate`, `mlp_act` and `fusion`.",
    "experts": "Compare the row with the experts' forward method: set the fields of `Experts`.",
    "mixture": "Compare the row with the mixture's forward method: set `mlp`, `router` and `experts`.",
    "final": "Compare the row with the model's forward method: set `final_norm`, `project_out`, `head` and `softcap`.",
}


@dataclass(slots=True)
class _Entry:
    compared: int = 0
    worst: float = 0.0
    size: float = 0.0
    failure: str = ""


class Ledger:
    """The comparisons made so far, by claim: how many, the largest difference, and the first failure."""

    def __init__(self, *, full_precision: bool) -> None:
        """`full_precision` is True for a float32 model; half precision gets the wider tolerances."""
        self._full_precision = full_precision
        self._entries: dict[str, _Entry] = {}

    def tolerance(self, name: str) -> float:
        """Largest relative difference (Frobenius) at which the two sides of a claim count as equal."""
        if self._full_precision:
            return _FLOAT32
        return _HALF_STREAM if name in _STREAM_CLAIMS else _HALF

    def compare(
        self, name: str, where: str, got: Tensor | None, expected: Tensor | None, fix: Callable[[], str] | None = None
    ) -> None:
        """Enter one comparison. `fix` is only asked if the two differ."""
        entry = self._entries.setdefault(name, _Entry())
        entry.compared += 1
        error = difference(got, expected)
        entry.worst = max(entry.worst, error)
        entry.size += 0.0 if expected is None else float(expected.double().norm())
        if error <= self.tolerance(name) or entry.failure:
            return
        if got is None or expected is None:
            reason = "but one side cannot be computed, or a module did not run exactly once in a forward pass"
        elif got.shape != expected.shape:
            reason = f"but the shapes are {tuple(got.shape)} and {tuple(expected.shape)}"
        else:
            reason = f"but the two differ by {error:.2g} of their size, more than {self.tolerance(name):g}"
        entry.failure = f"{where}: {CLAIMS[name]}, {reason}. {fix() if fix else _FIXES[name]}"

    def has(self, name: str) -> bool:
        """True if the claim was tested at all; a dense model makes no claims about routers."""
        return name in self._entries

    def verdict(self, name: str) -> tuple[bool, str]:
        """Whether the claim holds, and the detail."""
        entry = self._entries[name]
        if entry.failure:
            return False, entry.failure
        if entry.size == 0.0:
            return False, f"{CLAIMS[name]}: both sides are zero everywhere, which shows nothing. Probe a trained model."
        return True, f"{CLAIMS[name]}; {entry.compared} compared, largest difference {entry.worst:.1e}"


def difference(got: Tensor | None, expected: Tensor | None) -> float:
    """Frobenius norm of the difference over that of `expected`; infinite for shapes that differ, NaN or None."""
    if got is None or expected is None or got.shape != expected.shape:
        return float("inf")
    expected = expected.double()
    gap = float((got.to(expected.device).double() - expected).norm())
    if gap == 0.0:
        return 0.0
    size = float(expected.norm())
    return gap / size if size > 0.0 and gap < float("inf") else float("inf")


def modules_of(parts: Anatomy) -> list[nn.Module]:
    """Every module that the equations speak of."""
    modules = [parts.embed, parts.final_norm, parts.project_out, parts.head]
    for layer in range(parts.n_layers):
        modules += [parts.block(layer), parts.attention(layer), *parts.mlp_ends(layer)]
        norms = (parts.norm(layer, name) for name in ("attn", "attn_post", "mlp", "mlp_post"))
        modules += [norm for norm in norms if norm is not None]
    roles = (Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT, Role.ROUTER)
    return modules + [parts.module(site) for site in parts.sites(*roles)]


def compare(parts: Anatomy, recording: Recording, seed: int) -> Ledger:
    """Test every claim of the row on every layer; `seed` draws the inputs of the experts."""
    dtypes = {parts.matrix(site).parameter.dtype for site in parts.sites()}
    ledger = Ledger(full_precision=dtypes <= {torch.float32, torch.float64})
    equations = _Equations(parts, recording, ledger, seed)
    with torch.no_grad():
        ledger.compare("embed", parts.arch.embed, _ids(recording.into(parts.embed)), _ids(recording.tokens))
        for layer in range(parts.n_layers):
            equations.stream(layer)
            equations.linear(layer)
            if parts.experts_in(layer):
                equations.experts(layer)
                equations.mixture(layer)
            else:
                equations.key(layer)
        equations.final()
    return ledger


class _Equations:
    """The equations of one recording. Each method enters the comparisons of one layer in the ledger."""

    def __init__(self, parts: Anatomy, recording: Recording, ledger: Ledger, seed: int) -> None:
        self.parts, self.rec, self.ledger, self.seed = parts, recording, ledger, seed

    def stream(self, layer: int) -> None:
        """Follow the residual stream through a block: x -> x + attention -> + MLP."""
        parts, rec, where = self.parts, self.rec, f"layer {layer}"
        norm_first, parallel = parts.setting(parts.arch.norm_first), parts.setting(parts.arch.parallel)
        block, (mlp_first, mlp_last) = parts.block(layer), parts.mlp_ends(layer)
        x = rec.into(block)
        if layer:
            self.ledger.compare("blocks", where, x, rec.out_of(parts.block(layer - 1)))
        expected = self._norm(layer, "attn", "attention", x) if norm_first else x
        self.ledger.compare("attention", where, rec.into(parts.attention(layer)), expected)
        attended = self._norm(layer, "attn_post", "residual", rec.out_of(parts.attention(layer)))
        middle = _sum(x, attended)
        if not norm_first:
            middle = self._norm(layer, "attn", "residual", middle)
        expected = x if parallel else middle
        expected = self._norm(layer, "mlp", "mlp", expected) if norm_first else expected
        self.ledger.compare("mlp", where, rec.into(mlp_first), expected)
        written = _sum(middle, self._norm(layer, "mlp_post", "residual", rec.out_of(mlp_last)))
        if not norm_first:
            written = self._norm(layer, "mlp", "residual", written)
        self.ledger.compare("residual", where, rec.out_of(block), written)

    def _norm(self, layer: int, name: str, claim: str, value: Tensor | None) -> Tensor | None:
        """What a norm gave, after comparing what it read with `value`; `value` itself where there is no norm."""
        norm = self.parts.norm(layer, name)
        if norm is None:
            return value
        self.ledger.compare(claim, f"layer {layer}, norms.{name}", self.rec.into(norm), value)
        return self.rec.out_of(norm)

    def linear(self, layer: int) -> None:
        """Modules against matrices, and the results of attention and MLP against their last matrix."""
        parts, rec = self.parts, self.rec
        for role in (Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT, Role.ROUTER):
            site = Site(layer, role)
            if not parts.has(site):
                continue
            matrix, module = parts.matrix(site), parts.module(site)
            inputs, value = rec.into(module), rec.out_of(module)
            if value is not None and role is not Role.ROUTER:
                value = value[:, matrix.rows]
            got = _attempt(apply, matrix, inputs)
            fix = partial(_turn, matrix, inputs, value)
            self.ledger.compare(role.value, matrix.address, value, got, fix)
        last = rec.out_of(parts.module(Site(layer, Role.ATTN_OUT)))
        self.ledger.compare("attention", f"layer {layer}, result", rec.out_of(parts.attention(layer)), last)
        if parts.has(Site(layer, Role.MLP_OUT)):
            last = rec.out_of(parts.module(Site(layer, Role.MLP_OUT)))
            self.ledger.compare("mlp", f"layer {layer}, result", rec.out_of(parts.mlp_ends(layer)[1]), last)

    def key(self, layer: int) -> None:
        """A dense MLP: what its output matrix reads, and what the module gives on inputs that bend its activation."""
        parts = self.parts
        inputs = self.rec.into(parts.mlp_ends(layer)[0])
        read = self.rec.into(parts.module(Site(layer, Role.MLP_OUT)))
        got = _attempt(mlp_key, parts, layer, inputs)
        fix = partial(self._fix, "mlp_key", mlp_key, layer, None, inputs, read)
        self.ledger.compare("mlp_key", f"layer {layer}", read, got, fix)
        if parts.arch.mlp is None:
            return
        inputs = self._exciting(Site(layer, Role.MLP_GATE if parts.arch.mlp_gate else Role.MLP_IN), 32)
        value = _attempt(lambda: parts.mlp(layer)(inputs).float())
        inputs = inputs.float()
        got = _attempt(mlp_value, parts, layer, inputs)
        fix = partial(self._fix, "mlp_key", mlp_value, layer, None, inputs, value)
        self.ledger.compare("mlp_key", f"layer {layer}, random inputs", value, got, fix)

    def experts(self, layer: int) -> None:
        """Every expert called alone on random inputs, whatever the router would have chosen."""
        parts, n = self.parts, self.parts.experts_in(layer)
        inputs = self._exciting(Site(layer, Role.EXPERT_GATE, 0), 4 * n)
        chosen = torch.arange(4 * n, device=inputs.device)[:, None] % n
        whole = torch.ones_like(chosen, dtype=inputs.dtype)
        values = _attempt(lambda: parts.experts(layer)(inputs, chosen, whole).float())
        for expert in range(n):
            rows = chosen[:, 0] == expert
            mine, value = inputs[rows].float(), _attempt(torch.Tensor.__getitem__, values, rows)
            got = _attempt(mlp_value, parts, layer, mine, expert)
            fix = partial(self._fix, "experts", mlp_value, layer, expert, mine, value)
            self.ledger.compare("experts", f"layer {layer}, expert {expert}", value, got, fix)

    def _exciting(self, site: Site, n: int) -> Tensor:
        """Random inputs (n, d_model) in the model's dtype for which the matrix of the site gives values of size 3."""
        matrix = self.parts.matrix(site)
        inputs = torch.randn(n, matrix.shape[1], generator=torch.Generator().manual_seed(self.seed))
        size = float(apply(matrix, inputs).std())
        return (inputs * (_EXCITED / size if size > 0.0 else 1.0)).to(matrix.parameter)

    def mixture(self, layer: int) -> None:
        """The layer's result from the matrices of the experts that the router chose."""
        router = self.parts.module(Site(layer, Role.ROUTER))
        inputs, weights, chosen = self.rec.into(router), self.rec.out_of(router, 1), self.rec.out_of(router, 2)
        value = self.rec.out_of(self.parts.mlp(layer))
        total = _attempt(mixture_value, self.parts, layer, inputs, weights, chosen)
        self.ledger.compare("mixture", f"layer {layer}", value, total)
        self.ledger.compare("mlp", f"layer {layer}, router", inputs, self.rec.into(self.parts.mlp(layer)))

    def final(self) -> None:
        """From the last block to the logits."""
        parts, rec = self.parts, self.rec
        value = rec.out_of(parts.block(parts.n_layers - 1))
        for path in (parts.arch.final_norm, parts.arch.project_out, parts.arch.head):
            module = nn.Identity() if path is None else parts.outside(path)
            if not isinstance(module, nn.Identity):
                self.ledger.compare("final", path or "", rec.into(module), value)
                value = rec.out_of(module)
        self.ledger.compare("final", "logits", rec.logits, None if value is None else parts.capped(value))

    def _fix(
        self,
        claim: str,
        compute: Callable[..., Tensor],
        layer: int,
        expert: int | None,
        inputs: Tensor | None,
        value: Tensor | None,
    ) -> str:
        """The change of the row under which `compute` gives `value`; where to look, if none of the usual ones does."""
        for change, row in _changes(self.parts.arch, expert is not None):
            other = _attempt(Anatomy, self.parts.model, row)
            got = _attempt(partial(compute, expert=expert), other, layer, inputs)
            if difference(got, value) <= self.ledger.tolerance(claim):
                return f"It holds with {change}; correct the row."
        return _FIXES[claim]


def _changes(arch: Arch, mixture: bool) -> Iterator[tuple[str, Arch]]:
    """The usual mistakes in a row, undone one at a time."""
    if mixture and arch.experts is not None:
        for transposed, fusion in product((False, True), Fusion):
            experts = replace(arch.experts, transposed=transposed, fusion=fusion)
            yield f"Experts(transposed={transposed}, fusion=Fusion.{fusion.name})", replace(arch, experts=experts)
        return
    yield f"transposed={not arch.transposed}", replace(arch, transposed=not arch.transposed)
    if arch.mlp_gate != arch.mlp_in and arch.mlp_gate is not None:
        exchanged = replace(arch, mlp_in=arch.mlp_gate, mlp_gate=arch.mlp_in)
        yield f"mlp_in={exchanged.mlp_in!r} and mlp_gate={exchanged.mlp_gate!r}", exchanged
    if arch.fusion is not None:
        for fusion in Fusion:
            yield f"fusion=Fusion.{fusion.name}", replace(arch, fusion=fusion)


def _turn(matrix: Matrix, inputs: Tensor | None, value: Tensor | None) -> str:
    """What to do about a module that is not the map of its matrix."""
    turned = replace(matrix, transposed=not matrix.transposed)
    if difference(_attempt(apply, turned, inputs), value) <= _HALF:
        return f"It holds with transposed={turned.transposed}; correct the row."
    return f"Name a module that applies {matrix.parameter_name!r} to its input and adds nothing but its bias."


def _attempt(compute: Callable[..., T], *args: object) -> T | None:
    """What `compute` gives; None if a tensor is missing, or if what the row names cannot be computed with at all."""
    if any(arg is None for arg in args):
        return None
    try:
        return compute(*args)
    except Exception:  # a wrong row can name any module, and each fails in its own way; the claim fails with it
        return None


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None or a.shape != b.shape else a + b.to(a.device)


def _ids(tokens: Tensor | None) -> Tensor | None:
    return None if tokens is None else tokens.reshape(-1)
