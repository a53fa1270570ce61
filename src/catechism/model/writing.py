"""Writing values into output matrices: what MEMIT, EMMET and AlphaEdit do alike.

They differ in the regression that turns keys and residuals into an update, and hand that in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta import Delta, LowRank
from catechism.errors import ArchitectureMismatch, BadSpec
from catechism.hashing import digest_json
from catechism.model.background import Background
from catechism.model.live import LiveModel
from catechism.model.reading import Gain, Reading, half_for_the_bare_prompt
from catechism.model.sought import Sought
from catechism.types import JSON, Catechism, Role, Site

#: (layer's site, keys (n, d_in), residuals (n, d_out)) -> the two factors of its update
Solve = Callable[[Site, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that the family shares. A method's `Spec` gives them their defaults and adds its own.

    Raises: BadSpec for a setting out of range.
    """

    layer: int
    spread: int
    gain: Gain
    contexts: int
    context_tokens: int
    frames: bool
    kl: float
    decay: float
    anchor: int
    seed: int

    def __post_init__(self) -> None:
        if self.spread < 1 or self.contexts < 0 or self.context_tokens < 1 or self.anchor < 0:
            raise BadSpec(
                f"spread={self.spread}, contexts={self.contexts}, context_tokens={self.context_tokens}, "
                f"anchor={self.anchor}: use 1, 0, 1 and 0 at the least."
            )


class Writing:
    """Some facts that are to be written into some layers of a model.

    Args:
        live: the model, as it is without the edits of this stream.
        background: of this model.
        catechisms: what is to be written.
        spec: settings.

    Attributes:
        sites: the matrices, from the first layer to the last.
        statistics: of every matrix, those of the base model.

    Raises: BadSpec if there is nothing to write; WrongBase if the background is that of another model; UnknownName if
        the layer is not there.
    """

    def __init__(
        self, live: LiveModel, background: Background, catechisms: Sequence[Catechism], spec: Settings
    ) -> None:
        if not catechisms:
            raise BadSpec("There is nothing to fit. Give at least one catechism.")
        background.check(live)
        self._live, self._spec = live, spec
        self.sites = last_layers(live, spec.layer, spec.spread)
        contexts = background.contexts(spec.contexts, tokens=spec.context_tokens, seed=spec.seed)
        self.reading = Reading(tuple(c.fact for c in catechisms), contexts, frames=spec.frames)
        self.rows = self.reading.rows(live)
        self.statistics = {site: background.covariance(site) for site in self.sites}

    def keys(self, site: Site) -> Float[Tensor, "n d_in"]:
        """The facts' keys on the model as it is now."""
        return half_for_the_bare_prompt(self.reading.keys(self._live, [site])[site])

    def there(self, keys: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        """What the last matrix gives for these keys as it is now, float64."""
        return keys @ self._live.anatomy.matrix(self.sites[-1]).read().double().T

    def sought(self, keys: Float[Tensor, "n d_in"], directions: Float[Tensor, "n d_in"]) -> Sought:
        """What is asked of the facts' values at the last matrix.

        Args:
            keys: of the last matrix.
            directions: in which each fact's own update would read, C^-1 k.
        """
        spec, readers = self._spec, directions / (directions * keys).sum(dim=1, keepdim=True)
        scale = self.there(keys).norm(dim=1).float()
        return Sought(self.sites[-1], spec.gain, spec.kl, spec.decay, self.rows, readers, scale)

    def write(self, values: Float[Tensor, "n d_out"], solve: Solve) -> dict[str, LowRank]:
        """Write values that belong to the last matrix into all of them, from the first to the last.

            R_l = (V - brought_l) / (layers left, l included)                                                # Eq. 20

        ``brought`` is what the layers before l already add to the residual stream after the last layer, measured with
        their updates on the model. Returns the update of each matrix by its address, float32.

        Deviation: a value belongs to the output of the last layer's matrix and not to that of its block. Where the
        family has a norm after the MLP the block's output cannot be set freely; what the earlier layers brought is
        turned into the matrix's units by the ratio that the value itself shows, which is 1 in every other family.

        Source: MEMIT, arXiv:2210.07229, Algorithm 1.
        """
        live, last = self._live, self.sites[-1].layer
        parts: dict[str, LowRank] = {}
        values = values.double()
        clean = unit = torch.zeros(())
        if len(self.sites) > 1:
            clean = self.reading.states(live, last)
            moved = (self.reading.states(live, last, values.to(live.dtype)) - clean).norm(dim=1, keepdim=True)
            unit = (moved / values.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_min(1e-12)
        for number, site in enumerate(self.sites):
            with standing(live, Delta(live.base, parts) if parts else None):
                keys = self.keys(site)
                missing = values - (self.reading.states(live, last) - clean) / unit if number else values
            A, B = solve(site, keys, missing / (len(self.sites) - number))
            parts[live.anatomy.matrix(site).address] = LowRank(A.float().cpu(), B.float().cpu())
        return parts

    def delta(self, name: str, parts: Mapping[str, LowRank], found: Any, more: Mapping[str, JSON] = {}) -> Delta:
        """These updates as a delta that says where they came from.

        Args:
            name: of the method.
            parts: by address.
            found: result of the value search.
            more: what else is to be recorded.
        """
        address = self._live.anatomy.matrix
        info: dict[str, JSON] = {
            "method": name,
            "spec": asdict(self._spec),
            "facts": [digest_json(asdict(fact)) for fact in self.reading.facts],
            "statistics": {address(s).address: {"key": c.key, "n": c.n} for s, c in self.statistics.items()},
            "nll": [float(x) for x in found.nll],
            "steps": [int(x) for x in found.steps],
            **more,
        }
        return Delta(self._live.base, parts, info)


@contextmanager
def standing(live: LiveModel, delta: Delta | None) -> Iterator[None]:
    """With a delta on the model for the body, if there is one."""
    if delta is None:
        yield
        return
    with live.with_delta(delta):
        yield


def anchored(
    values: Float[Tensor, "n d"], there: Float[Tensor, "n d"], kept: Mapping[str, Tensor] | None, pilots: int
) -> tuple[Float[Tensor, "n d"], dict[str, Tensor]]:
    """Bring every output with its value to the mean norm that the first facts' outputs had.

        v_i <- (W k_i + v_i) * norm / |W k_i + v_i| - W k_i

    In a long stream the norms grow from edit to edit, and the growth ruins the model.

    Args:
        values: as found.
        there: W k_i, what the matrix gives as it is.
        kept: what the stream keeps, with the norms so far under "anchor"; None at its beginning.
        pilots: how many facts are the first ones; those are not changed. 0 changes none.

    Returns: the values, and what the stream keeps from now on.
    Source: NAS, arXiv:2602.02543.
    """
    kept = dict(kept or {})
    if not pilots:
        return values, kept
    whole = there + values
    norms = whole.norm(dim=1)
    first = torch.cat([kept.get("anchor", norms[:0].cpu()), norms.detach().cpu()])[:pilots]
    new = len(first) - len(kept.get("anchor", ()))
    kept["anchor"] = first
    scaled = whole * (first.mean().to(norms) / norms.clamp_min(1e-12))[:, None]
    return torch.cat([values[:new], (scaled - there)[new:]]), kept


def last_layers(live: LiveModel, layer: int, spread: int) -> list[Site]:
    """The MLP output matrices of the `spread` layers that end at `layer`, less those that are not there or not dense.

    Raises: UnknownName if `layer` itself is no such layer.
    """
    last = Site(layer, Role.MLP_OUT)
    live.anatomy.matrix(last)
    earlier = [Site(number, Role.MLP_OUT) for number in range(max(layer - spread + 1, 0), layer)]
    return [*(site for site in earlier if live.anatomy.has(site)), last]


def early_layer(live: LiveModel) -> int:
    """The first layer with a dense MLP from a fifth of the depth on: where published edits of a subject's key go.

    Raises: ArchitectureMismatch if every layer is a mixture of experts.
    """
    dense = [site.layer for site in live.anatomy.sites(Role.MLP_OUT)]
    if not dense:
        raise ArchitectureMismatch(
            f"{live.name} has no dense MLP, every layer is a mixture of experts. Choose a dense model to edit an MLP."
        )
    return next((layer for layer in dense if layer >= live.anatomy.n_layers // 5), dense[-1])


def settings_of(live: LiveModel, spec: Any, *, spread: int) -> Settings:
    """Settings of a method of forgetting from its own, which hold it to no essence and no anchor.

    Where its `layer` is None it is `early_layer`, and raises as that.
    """
    layer = early_layer(live) if spec.layer is None else spec.layer
    same = ("gain", "contexts", "context_tokens", "frames", "decay", "seed")
    return Settings(layer=layer, spread=spread, kl=0.0, anchor=0, **{name: getattr(spec, name) for name in same})
