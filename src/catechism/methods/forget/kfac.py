"""Curvature editing: matrices without the directions that hardly any text needs, arXiv:2510.24256.

Text that is said by heart takes directions of the weights in which the loss over ordinary text hardly bends. They are
found by Kronecker factors of the curvature and taken out (`catechism.solve.curvature`):

    W' = U_G ((U_G^T W U_A) o M) U_A^T,   M the fewest pairs with a share rho of the curvature l_i m_j      # Sec. 3

    symbol    shape              meaning
    A, U_A, m (d_in, d_in)       second moment of W's inputs over the model's texts, its eigenvectors and -values
    G, U_G, l (d_out, d_out)     second moment of the loss's gradients at W's outputs, labels drawn from the model
    M         (d_out, d_in)      pairs that stay

It is *untargeted*: nothing of the request is read, what goes is whatever the texts need least, and facts that a model
is asked for seldom are part of that. The authors report lower scores at closed-book facts and arithmetic, and that what
went may come back with more training. It is here as a pass against text said by heart and as a yardstick, not as a way
to forget one person.

Deviation: published over about 20 million tokens; here `texts` of the background, which is what a model of this
project's size has. The change is kept as it is, since taking out pairs leaves no low rank.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from catechism.delta import Delta, Dense
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.curvature import curvature
from catechism.model.forgetting.fitting import Fitting
from catechism.solve.curvature import without_flat_directions
from catechism.types import JSON, Forgetting, How, Role, Site

SOURCE = "arXiv:2510.24256"


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those for OLMo-2 7B."""

    layers: tuple[int, ...] | None = None  # None: from three quarters of the depth on; published 23, 24, 25 of 32
    roles: tuple[Role, ...] = (Role.MLP_GATE, Role.MLP_IN)  # published gate and up; a model without a gate has one
    rho: float = 0.6  # share of the curvature that stays; published .6, searched from .6 to .9
    texts: int = 200  # background texts; published 20 million tokens
    seed: int = 0  # of the labels

    def __post_init__(self) -> None:
        if not 0 < self.rho <= 1:
            raise BadSpec(f"rho={self.rho} is no share of the curvature. Use a number above 0 and at most 1.")
        if self.texts < 1:
            raise BadSpec(f"texts={self.texts} is too small. Use 1 or more.")
        if self.layers is not None and not self.layers:
            raise BadSpec("layers=() names no layer. Give at least one, or None for the default.")


class Kfac:
    """The method."""

    name = "kfac"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """A change of every chosen matrix. Of the request only its form is checked. The model is not changed.

        Raises: BadSpec for another `how` than erase, an empty forget set, and no matrix to change; WrongBase if the
            background is that of another model; UnknownName for a layer that is not there.
        """
        Fitting(self._background, self.name, self.hows, keeps=False).check(live, request)
        n_layers = live.anatomy.n_layers
        layers = range(3 * n_layers // 4, n_layers) if spec.layers is None else spec.layers
        for layer in layers:
            live.anatomy.block(layer)
        sites = [site for layer in layers for role in spec.roles if live.anatomy.has(site := Site(layer, role))]
        if not sites:
            raise BadSpec(f"Layers {list(layers)} have none of {[str(role) for role in spec.roles]}. Choose others.")
        found = curvature(live, sites, self._background.texts(spec.texts), seed=spec.seed)
        parts: dict[str, Dense] = {}
        record: dict[str, JSON] = {}
        for site in sites:
            matrix, factors = live.anatomy.matrix(site), found[site]
            W = matrix.read().double()
            edited, kept = without_flat_directions(W, factors.inputs, factors.gradients, spec.rho)
            parts[matrix.address] = Dense((edited - W).float().cpu())
            record[matrix.address] = {"pairs_kept": kept, "tokens": factors.n}
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "forget": [digest_json(asdict(one)) for one in request.forget],
            "matrices": record,
        }
        return Delta(live.base, parts, info)
