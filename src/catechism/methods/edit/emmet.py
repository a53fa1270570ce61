"""EMMET: A Unified Framework for Model Editing, arXiv:2403.14236.

What ROME does for one fact, for many: the facts are constraints, and of all updates that meet them the one is taken
that moves old keys least.

    minimise   E |Delta k_old|^2   subject to   Delta k_i = r_i for every fact
    Delta = R^T D^-1 K C^-1,   D = K C^-1 K^T                                                               # Eq. 1

    symbol  name        shape        meaning
    K       keys        (n, d_in)    mean over texts of the input of W at the subject's last token
    R       values      (n, d_out)   found by gradient descent
    C       covariance  (d_in, d_in) E[k k^T] of the base model, uncentred
    D       Gram matrix (n, n)       of the keys, whitened

With one fact this is ROME. Where the keys of several are nearly dependent D cannot be inverted as it is, and a share of
its scale is added to its diagonal.

Deviation: that share is relative, ``ridge * d_in``, the mean of ``k C^-1 k`` over old keys being d_in. The value's
place and gain, and the sentences that keys are taken from, are those of `memit`. The equation's number is this page's
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.methods.searching import find_target_values
from catechism.methods.stream import Progress, Stepwise, Stream
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.reading import Gain
from catechism.model.writing import Settings, Writing, anchored, standing
from catechism.solve import Factors, least_squares_update
from catechism.solve.values import Search
from catechism.types import Catechism, Site

SOURCE = "arXiv:2403.14236; anchor: arXiv:2602.02543"
START = Progress()


@dataclass(frozen=True, kw_only=True)
class Spec(Settings):
    """Settings of EMMET. Published values are those of the original code for GPT-2 XL."""

    layer: int  # the last layer that is written; published 17
    spread: int = 1  # layers written; published 1
    ridge: float = 0.016  # on the diagonal of D / d_in, if there are several facts; published .1 * 1,000 / 6,400
    gain: Gain = "onward"  # where the value acts during its search, see above
    contexts: int = 5  # texts put before the prompt, beside the bare prompt; published 5
    context_tokens: int = 10  # published 10
    frames: bool = True  # take keys from sentences about the subject as well
    search: Search = Search()  # published clamp 4
    kl: float = 0.0625  # published .0625
    decay: float = 0.5  # published .5
    anchor: int = 0  # NAS: the stream's first facts, whose values' mean norm holds for all others; 0: no anchor
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ridge < float("inf"):
            raise BadSpec(f"ridge={self.ridge} must not be below zero. Use for instance 0.016.")


class Emmet:
    """The editor. A layer's covariance is inverted once."""

    name = "emmet"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background
        self._factors = Factors()

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One delta for all facts. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject; SingularCovariance if nothing enters a layer; WrongBase
            if the background is that of another model; NoConvergence, with the numbers of the facts.
        """
        return self.stream(live, spec).add(catechisms)

    def stream(self, live: LiveModel, spec: Spec, progress: Progress = START) -> Stream:
        """Every step on the model that carries the earlier ones; beside these only the anchor's norm is kept."""
        return Stepwise(partial(self._step, live, spec), progress)

    def _step(self, live: LiveModel, spec: Spec, catechisms: Sequence[Catechism], done: Progress) -> Progress:
        writing = Writing(live, self._background, catechisms, spec)
        statistics = {site: writing.statistics[site] for site in writing.sites}
        factors = {site: self._factors.of(c.key, c.matrix.to(live.device)) for site, c in statistics.items()}

        def solve(site: Site, keys: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
            ridge = spec.ridge * keys.shape[1] if len(keys) > 1 else 0.0
            return least_squares_update(keys, missing, factors[site], ridge=ridge)  # Eq. 1

        with standing(live, done.delta):
            keys = writing.keys(writing.sites[-1])
            sought = writing.sought(keys, factors[writing.sites[-1]].solve(keys))
            found = find_target_values(live, self._background.share, sought, spec.search)
            values, kept = anchored(found.values.double(), writing.there(keys), done.tensors, spec.anchor)
            delta = writing.delta(self.name, writing.write(values, solve), found)
        return Progress(delta if done.delta is None else done.delta + delta, kept, done.steps + 1)
