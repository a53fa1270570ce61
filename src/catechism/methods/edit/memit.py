"""MEMIT: Mass-Editing Memory in a Transformer, arXiv:2210.07229.

Many facts are written at once, and into several consecutive layers, each of which brings its share of what the last one
of them has to give for every fact. In each layer the write is the ridge regression

    minimise   lambda E |Delta k_old|^2 + sum_i |Delta k_i - r_i|^2
    Delta = R^T K (lambda C + K^T K)^-1                                                                     # Eq. 14

    symbol  name        shape        meaning
    K       keys        (n, d_in)    mean over texts of the input of W_l at the subject's last token
    V       values      (n, d_out)   found by gradient descent at the last of the layers
    R       missing     (n, d_out)   what of V is still missing, divided by the number of layers left          # Eq. 20
    C       covariance  (d_in, d_in) E[k k^T] of the base model, uncentred
    lambda  ridge       number       how many old keys C stands for

Deviation: lambda is ``ridge * d_in``. An old key has ``k C^-1 k = d_in`` on average, so lambda counts against d_in; the
published 15,000 is for d_in = 16,384 and would leave a narrow matrix as it is. The value belongs to the output of the
MLP's matrix instead of the block's, see `Writing.write`, and acts during its search by the gain of the fact's own
update from the subject's last token on; ``gain="subject"`` is the published search. Keys are also taken from sentences
that only name the subject; ``frames=False`` leaves them out.
Not implemented: the covariance of 100,000 documents, see `Background`.
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
from catechism.solve import Factors, ridge_update
from catechism.solve.values import Search
from catechism.types import Catechism, Site

SOURCE = "arXiv:2210.07229; anchor: arXiv:2602.02543"
START = Progress()


@dataclass(frozen=True, kw_only=True)
class Spec(Settings):
    """Settings of MEMIT. Published values are those of the original code."""

    layer: int  # the last layer that is written; published 8 (GPT-J), 17 (GPT-2 XL)
    spread: int = 5  # layers written; published 6 (GPT-J), 5 (GPT-2 XL)
    ridge: float = 1.0  # lambda / d_in; published .92 (GPT-J: 15,000 / 16,384), 3.1 (GPT-2 XL: 20,000 / 6,400)
    gain: Gain = "onward"  # where the value acts during its search, see above
    contexts: int = 5  # texts put before the prompt, beside the bare prompt; published 5
    context_tokens: int = 10  # published 10
    frames: bool = True  # take keys from sentences about the subject as well
    search: Search = Search()  # published clamp .75
    kl: float = 0.0625  # published .0625
    decay: float = 0.5  # published .5
    anchor: int = 0  # NAS: the stream's first facts, whose values' mean norm holds for all others; 0: no anchor
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ridge < float("inf"):
            raise BadSpec(f"ridge={self.ridge}: the old keys need a weight above zero. For none there is `emmet`.")


class Memit:
    """The editor. A layer's covariance is inverted once."""

    name = "memit"
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
            return ridge_update(keys, missing, factors[site], spec.ridge * keys.shape[1])  # Eq. 14

        with standing(live, done.delta):
            keys = writing.keys(writing.sites[-1])
            sought = writing.sought(keys, factors[writing.sites[-1]].solve(keys))
            found = find_target_values(live, self._background.share, sought, spec.search)
            values, kept = anchored(found.values.double(), writing.there(keys), done.tensors, spec.anchor)
            delta = writing.delta(self.name, writing.write(values, solve), found)
        return Progress(delta if done.delta is None else done.delta + delta, kept, done.steps + 1)
