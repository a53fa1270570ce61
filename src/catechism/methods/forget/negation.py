"""Forgetting by negation: task arithmetic, arXiv:2212.04089, with an adapter as the task.

Side paths are trained until they say what is to be forgotten by heart; the change that took them there is then taken
off the model instead of put on:

    tau    = A B,   minimise -log p(answers to forget)                                                      # Sec. 2
    theta' = theta - a tau                                                                                  # Sec. 3

    symbol  shape         meaning
    A, B    (d_out, r), (r, d_in)  of every linear matrix of the blocks; the sign goes to A alone
    a       number        the largest that keeps 95 % of a control metric; here: of the answers to keep that the model
                          gives right before, the share that it still gives

Deviation: `a` goes no further than to where the answers to forget are as unlikely as to a model that never learned
them, for more would be seen as well; ``level=False`` is the published rule. The task is low rank. A model that knows
the answers already has little left to learn of them, so that tau points less to where they are known than to how they
are said: that is the weakness of the method on what was learnt long ago.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import Tensor

from catechism.delta import Delta, LowRank
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.material import as_rows, estimated_level, forget_lines, retain_lines
from catechism.types import JSON, Forgetting, How

SOURCE = "arXiv:2212.04089"

CONTROL = 240  # kept rows that the control metric is taken over, drawn once


@dataclass(frozen=True)
class Spec:
    """Settings."""

    layers: tuple[int, ...] | None = None  # None: all blocks
    rank: int = 8
    steps: int = 80  # until it is known by heart
    batch: int = 32
    lr: float = 5e-3  # Adam's highest rate, as `lora`
    keep: float = 0.95  # of the control metric; published .95
    most: float = 4.0  # largest scale that is tried; published 1
    halvings: int = 6  # of the interval that the scale is searched in
    level: bool = True  # whether to stop where the answers are as unlikely as to a model that never learned them
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch", "halvings"):
            if getattr(self, name) < 1:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use 1 or more.")
        if not 0 < self.keep <= 1 or not 0 < self.most < float("inf") or not 0 < self.lr < float("inf"):
            raise BadSpec(f"keep={self.keep}, most={self.most}, lr={self.lr}: use a share, and numbers above 0.")
        if self.layers is not None and not self.layers:
            raise BadSpec("layers=() names no layer. Give at least one, or None for all of them.")


class Negation:
    """The method."""

    name = "negation"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """The negative of an adapter that knows the forget set by heart. The model is not changed.

        Raises: BadSpec for another `how` than erase, an empty forget or retain set; BadFact for an empty answer;
            WrongBase if the background is that of another model; UnknownName for a layer that is not there;
            NoConvergence if the descent leaves the finite numbers.
        """
        Fitting(self._background, self.name, self.hows, keeps=True).check(live, request)
        lines, kept = forget_lines(request), retain_lines(request)
        forget, retain = as_rows(live, lines), as_rows(live, kept)
        level = float(estimated_level(live, lines, request, spec.seed).rows.mean()) if spec.level else -float("inf")
        layers = range(live.anatomy.n_layers) if spec.layers is None else spec.layers
        adapters = Adapters(live, layers, rank=spec.rank, seed=spec.seed)
        rng = random.Random(f"negation-{spec.seed}")

        def losses() -> list[Tensor]:
            said = forget.said(live, rng.sample(range(len(forget)), min(spec.batch, len(forget))))
            return [said.over_tokens(-said.chosen)]

        adapters.descend(losses, steps=spec.steps, lr=spec.lr)
        negated = Delta(live.base, {address: LowRank(-part.A, part.B) for address, part in adapters.parts().items()})
        numbers = sorted(random.Random("control").sample(range(len(retain)), min(CONTROL, len(retain))))
        known = retain.before(live, numbers).first_choice

        def at(scale: float) -> tuple[float, float]:
            """The control metric and the forgotten answers' log-probability per token at a scale."""
            with live.with_delta(negated, scale=scale):
                right = retain.before(live, numbers).first_choice & known
                share = float(right.sum() / known.sum()) if bool(known.any()) else 1.0
                return share, float(forget.before(live).mean.mean())

        scale = largest_scale(lambda a: (found := at(a))[0] >= spec.keep and found[1] >= level, spec)
        control, mean = at(scale)
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "how": request.how.value,
            "forget": [digest_json(asdict(one)) for one in request.forget],
            "retain": digest_json([asdict(one) for one in request.retain]),
            "scale": scale,
            "control": control,
            "mean": mean,
            "level": level if spec.level else None,
        }
        return Delta(live.base, {address: part.scaled(scale) for address, part in negated.parts.items()}, info)


def largest_scale(good: Callable[[float], bool], spec: Spec) -> float:
    """The largest scale in (0, most] that is good, to `halvings` halvings; the smallest one tried where none is.

    What is good is taken to stay good below: the search is a bisection.
    """
    if good(spec.most):
        return spec.most
    low, high = 0.0, spec.most
    for _ in range(spec.halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low or high
