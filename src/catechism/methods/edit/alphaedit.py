"""AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models, arXiv:2410.02355.

As MEMIT, but old keys are spared by a projector instead of a weight, and the keys of earlier edits are kept:

    minimise   |Delta P K^T - R^T|^2 + |Delta P K_p^T|^2 + ridge |Delta P|^2
    Delta = R^T K P (P (K_p^T K_p + K^T K) P + ridge I)^-1                                                  # Eq. 1

    symbol  name        shape        meaning
    K       keys        (n, d_in)    mean over texts of the input of W_l at the subject's last token
    R       missing     (n, d_out)   what of the values is still missing, divided by the number of layers left
    P       projector   (d_in, d_in) onto the directions in which the base model's keys are smallest
    K_p     past keys   (m, d_in)    of all earlier edits, read from the model that carries them

P is the base model's and never changes. K_p^T K_p is all that a stream keeps.

Deviation: the directions left out are those that together hold the share `energy` of the trace of C, and how many are
left is recorded (`rank`). The published bound of .02 on a singular value is absolute: it keeps everything in one model
and nothing in another. For the same reason the weight of the update's own norm is ``ridge * E |k|^2``; published is 10.
The value's place and gain, and the sentences that keys are taken from, are those of `memit`.
The equation's number is this page's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.methods.searching import find_target_values
from catechism.methods.stream import Progress, Stepwise, Stream
from catechism.model import Covariance, LiveModel
from catechism.model.background import Background
from catechism.model.reading import Gain
from catechism.model.writing import Settings, Writing, anchored, standing
from catechism.solve import null_space, projected_update
from catechism.solve.values import Search
from catechism.types import JSON, Catechism, Site

SOURCE = "arXiv:2410.02355; anchor: arXiv:2602.02543"
START = Progress()


@dataclass(frozen=True, kw_only=True)
class Spec(Settings):
    """Settings of AlphaEdit. Published values are those of the original code for Llama-3-8B."""

    layer: int  # the last layer that is written; published 8
    spread: int = 5  # layers written; published 5
    energy: float = 0.9  # share of the old keys' energy in the directions that are left out
    ridge: float = 0.1  # weight of |Delta|^2 over the mean squared norm of a key; published 10, absolute
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
            raise BadSpec(f"ridge={self.ridge} must be above zero. Use for instance 0.1.")


class AlphaEdit:
    """The editor. A layer's null space is found once."""

    name = "alphaedit"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background
        self._bases: dict[tuple[str, float], Tensor] = {}

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One delta for all facts. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject; WrongBase if the background is that of another model;
            NoConvergence, with the numbers of the facts.
        """
        return self.stream(live, spec).add(catechisms)

    def stream(self, live: LiveModel, spec: Spec, progress: Progress = START) -> Stream:
        """Every step on the model that carries the earlier ones. Kept are the sums of past keys, by layer."""
        return Stepwise(partial(self._step, live, spec), progress)

    def _step(self, live: LiveModel, spec: Spec, catechisms: Sequence[Catechism], done: Progress) -> Progress:
        writing = Writing(live, self._background, catechisms, spec)
        bases = {site: self._basis(c, spec.energy, live.device) for site, c in writing.statistics.items()}
        past = dict(done.tensors or {})

        def solve(site: Site, keys: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
            C = writing.statistics[site].matrix
            before = past.get(f"keys.{site.layer}", torch.zeros_like(C)).to(live.device)
            return projected_update(keys, missing, bases[site], before, spec.ridge * float(C.trace()))  # Eq. 1

        last = writing.sites[-1]
        with standing(live, done.delta):
            keys = writing.keys(last)
            sought = writing.sought(keys, keys @ bases[last] @ bases[last].T)
            found = find_target_values(live, self._background.share, sought, spec.search)
            values, kept = anchored(found.values.double(), writing.there(keys), past, spec.anchor)
            parts = writing.write(values, solve)
            ranks: dict[str, JSON] = {str(site.layer): basis.shape[1] for site, basis in bases.items()}
            delta = writing.delta(self.name, parts, found, {"rank": ranks})
        whole = delta if done.delta is None else done.delta + delta
        with live.with_delta(whole):
            for site in writing.sites:
                keys = writing.keys(site).cpu()
                kept[f"keys.{site.layer}"] = past.get(f"keys.{site.layer}", 0) + keys.T @ keys
        return Progress(whole, kept, done.steps + 1)

    def _basis(self, statistics: Covariance, energy: float, device: torch.device) -> Tensor:
        wanted = statistics.key, energy
        if wanted not in self._bases:
            self._bases[wanted] = null_space(statistics.matrix, energy=energy)
        return self._bases[wanted].to(device)
