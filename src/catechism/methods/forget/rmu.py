"""RMU: representation misdirection, The WMDP Benchmark, arXiv:2403.03218.

    v   = c u,   u a random direction, fixed for the run
    L_f = mean |h_t(x_f) - v|^2                                                                             # Eq. 1
    L_r = mean |h_t(x_r) - h_0(x_r)|^2                                                                      # Eq. 2
    L   = L_f + alpha L_r

    h_t, h_0  what leaves block `layer` now and before, at the tokens of a row, (k, d_model)

Trained are the MLPs' output matrices of that block and of the two below it. Both losses are shares of the states' own
mean square, see `catechism.model.forgetting.states.Misdirection`.

Deviation: c counts in lengths of a state to forget, since a small network's states are far shorter than those that the
published 6.5 and 20 are for. A row's states are moved from the subject's last token on: what stands before it is the
same for those who stay, so that there both losses ask for opposites; published is every token (``tokens="all"``). The
trained matrices get side paths of low rank. Padding and beginning-of-text do not count; the original takes its mean
over padding too. Instead of a number of batches the run ends, as that of every trained method here, when the answers
have come down to their level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from catechism.delta import Delta
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.material import Line, forget_lines, material
from catechism.model.forgetting.objective import Objective
from catechism.model.forgetting.states import Misdirection, States, onward
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training, check_above
from catechism.model.seen import Stretch
from catechism.types import Forgetting, How, Role, Site

SOURCE = "arXiv:2403.03218"

BELOW = 2  # blocks below the one that is read which are trained as well


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own. `layers`, where given, are the blocks that are trained."""

    layer: int | None = None  # whose output is moved; None: half of the depth; published 7 of 32
    strength: float = 3.0  # c in lengths of a state; published 6.5 (Zephyr-7B) and 20, absolute
    tokens: Literal["onward", "all", "answer"] = "onward"  # of a row to forget; published all
    alphas: tuple[float, ...] = (5.0,)  # published 1200 (Zephyr-7B), 100, for states that are not scaled

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("strength", self.strength)


class RMU:
    """The method."""

    name = "rmu"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`."""
        self._fitting.check(live, request)
        layer = live.anatomy.n_layers // 2 if spec.layer is None else spec.layer
        live.anatomy.block(layer)
        layers = tuple(range(max(layer - BELOW, 0), layer + 1)) if spec.layers is None else spec.layers
        sites = [site for one in layers if live.anatomy.has(site := Site(one, Role.MLP_OUT))]
        spec = replace(spec, layers=layers)
        rows = material(live, request, spec)
        forget = States(live, layer, [_stretch(live, line, spec) for line in forget_lines(request)])
        moved = Misdirection.towards(forget, rows.retain, strength=spec.strength, seed=spec.seed)
        only = frozenset(live.anatomy.matrix(site).address for site in sites)
        return self._fitting.fit_rows(live, request, rows, Objective(moved.terms, only=only), spec)


def _stretch(live: LiveModel, line: Line, spec: Spec) -> Stretch:
    """The tokens of a row that are moved."""
    if spec.tokens == "onward":
        return onward(live, line, answer=True)
    text = f"{line.prompt} {line.answer}"
    if spec.tokens == "all":
        return Stretch(text, 0)
    ((start, end),) = live.encode_pairs([line.prompt], [line.answer]).spans
    return Stretch(text, start - 1, end - 2)
