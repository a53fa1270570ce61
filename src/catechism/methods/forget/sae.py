"""SAE-guided forgetting: states of known names to the features of unknown ones, after arXiv:2509.15631.

Forgotten is whose states cannot be told from those of somebody the model never met. A sparse autoencoder of the
residual stream, trained here on the model's own texts and then frozen, gives the features z in which that is measured;
the model is trained until its states have the features of strangers:

    L_f = |z(x_t) - z_unknown|^2 + pull max(0, margin - |z(x_t) - z_known|^2)                               # Eq. F1
    L_r = |z(x_r) - z_0(x_r)|^2 + KL(pi_0 || pi_t)(x_r)                                                     # Eq. F2

    symbol     shape   meaning
    x_t        (d,)    what leaves block `layer` at a token from the subject's last one on
    z_unknown  (f,)    mean features of made-up names in the same prompt at the same place
    z_known    (f,)    mean features at the subjects that stay
    margin     number  mean |z_unknown - z_known|^2: further than a stranger is from them, nothing is pushed

The published text gives no equations; these are rebuilt from its abstract. Of its parts all are here: the autoencoder,
both directions, retained features and retained answers.

Deviation: a feature that does not speak has no gradient, so a distance is taken over what calls the features (before
the top k are chosen), at features that speak in the state or in its target. The unknown are made up for every prompt
anew, not for all prompts together: a mean over prompts would wipe out what is asked as well as who. Squares are shares
of the mean square of z.
Not implemented: a published autoencoder; there is none for models of this size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.material import Line, forget_lines, material, retain_lines
from catechism.model.forgetting.names import made_up_name
from catechism.model.forgetting.objective import Objective, Step, Terms
from catechism.model.forgetting.sparse import SparseCoder, train_coder
from catechism.model.forgetting.states import States, everywhere, onward
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training, check_above
from catechism.model.seen import Stretch
from catechism.types import JSON, Forgetting, How

SOURCE = "arXiv:2509.15631; the autoencoder: arXiv:2406.04093"

STRANGERS = 4  # made-up names for every prompt


@dataclass(frozen=True)
class Coder:
    """How the autoencoder is trained."""

    wider: int = 4  # features for each dimension of a state; usual 4 to 8
    k: int = 64  # features that speak at a time; what they leave unexplained is not forgotten
    texts: int = 100  # background texts, beside the prompts themselves
    steps: int = 300
    batch: int = 256
    lr: float = 2e-3


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own. `layers`, where given, are the blocks that are trained."""

    rates: tuple[float, ...] = (0.01,)
    alphas: tuple[float, ...] = (0.5,)
    layer: int | None = None  # whose output is looked at; None: half of the depth, as suggested
    coder: Coder = Coder()
    pull: float = 0.5  # weight of being unlike the known; suggested .5
    features: float = 1.0  # weight of retained features beside retained answers; suggested 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("pull", self.pull, equal=True)
        check_above("features", self.features, equal=True)
        if min(self.coder.wider, self.coder.texts, self.coder.steps, self.coder.batch) < 1:
            raise BadSpec(f"{self.coder} leaves no autoencoder to train. Use 1 or more everywhere.")


class SAE:
    """The method."""

    name = "sae"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._background = background
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check`, `Fitting.fit` and `train_coder`."""
        self._fitting.check(live, request)
        layer = live.anatomy.n_layers // 2 if spec.layer is None else spec.layer
        live.anatomy.block(layer)
        layers = tuple(range(layer + 1)) if spec.layers is None else spec.layers
        spec = replace(spec, layers=layers, keep="kl")
        lines, rows = forget_lines(request), material(live, request, spec)
        forget = States(live, layer, [onward(live, line, answer=False) for line in lines])
        known = States(live, layer, [onward(live, line, answer=False) for line in retain_lines(request)]).all()[0]
        seen = [forget.all()[0], known]
        texts = self._background.texts(spec.coder.texts)
        seen.append(States(live, layer, [Stretch(text, 0) for text in texts]).all()[0])
        width = seen[0].shape[1] * spec.coder.wider
        coder = train_coder(
            torch.cat(seen),
            features=width,
            k=min(spec.coder.k, width),
            steps=spec.coder.steps,
            batch=spec.coder.batch,
            lr=spec.coder.lr,
            seed=spec.seed,
        )
        targets = _unknown(live, layer, coder, lines, request, spec.seed)
        retain = None if rows.retain is None else everywhere(live, layer, rows.retain)
        guided = _Guided(forget, retain, coder, targets, coder.features(known).mean(dim=0), spec)
        delta = self._fitting.fit_rows(live, request, rows, Objective(guided.terms), spec)
        more: dict[str, JSON] = {"features": width, "explained": coder.explained, "silent": coder.silent}
        return Delta(delta.base, delta.parts, {**delta.info, "autoencoder": {**asdict(spec.coder), **more}})


class _Guided:
    """The losses, with what they are measured by."""

    def __init__(
        self,
        forget: States,
        retain: States | None,
        coder: SparseCoder,
        targets: Sequence[Float[Tensor, "m f"]],
        known: Float[Tensor, " f"],
        spec: Spec,
    ) -> None:
        self._forget, self._retain, self._coder, self._spec = forget, retain, coder, spec
        self._targets, self._known = targets, known
        every = torch.cat(list(targets))
        self._unit = float(every.square().sum(dim=1).mean().clamp_min(1e-12))
        self._margin = float((every - known).square().sum(dim=1).mean()) / self._unit

    def terms(self, step: Step) -> Terms:
        states, row = self._forget.of(step.forgotten)
        called = self._coder.before(states)
        wanted = torch.cat([self._fitted(i, int((row == place).sum())) for place, i in enumerate(step.forgotten)])
        terms = {"forget": self._distance(called, wanted).mean()}
        if self._spec.pull:
            near = self._distance(called, self._known.expand_as(called))
            terms["known"] = self._spec.pull * (self._margin - near).clamp_min(0).mean()
        if step.keeps and self._retain is not None:
            kept, _ = self._retain.of(step.kept)
            was = self._coder.features(self._retain.still(step.adapters, step.kept))
            held = self._distance(self._coder.before(kept), was).mean()
            terms["retain"] = step.retained()["retain"] + self._spec.features * held  # Eq. F2
        return terms

    def _distance(self, called: Float[Tensor, "k f"], wanted: Float[Tensor, "k f"]) -> Float[Tensor, " k"]:
        """|z - wanted|^2 as a share of the unit, with gradients at features that speak in either."""
        speaks = (self._coder_speaks(called) | (wanted > 0)).to(called.dtype)
        return ((called - wanted) * speaks).square().sum(dim=1) / self._unit

    def _coder_speaks(self, called: Float[Tensor, "k f"]) -> Tensor:
        least = called.detach().topk(self._coder.k, dim=1).values[:, -1:]
        return (called.detach() >= least) & (called.detach() > 0)

    def _fitted(self, number: int, places: int) -> Float[Tensor, "k f"]:
        """A row's targets for so many places: from the end, since what stands after the subject is the same."""
        there = self._targets[number]
        return (
            there[-places:] if len(there) >= places else torch.cat([there[:1].expand(places - len(there), -1), there])
        )


def _unknown(
    live: LiveModel, layer: int, coder: SparseCoder, lines: Sequence[Line], request: Forgetting, seed: int
) -> list[Float[Tensor, "m f"]]:
    """Mean features of strangers in every prompt, from their last token on.

    A stranger whose row has another length after the name is left out of the mean, unless it is the first.
    """
    rng = random.Random(f"strangers-{seed}")
    known = list(dict.fromkeys(one.fact.subject for one in (*request.forget, *request.retain)))
    stretches: list[Stretch] = []
    for line in lines:
        subject = line.catechism.fact.subject
        for i in range(STRANGERS):
            name = made_up_name(subject, known, rng, joined=i % 2 == 0) if subject else ""
            text = line.prompt.replace(subject, name) if subject else line.prompt
            first = live.subject_last(text, name) if name and name in text else -1
            stretches.append(Stretch(text, first))
    states, row = States(live, layer, stretches).all()
    features = coder.features(states).split(torch.bincount(row, minlength=len(stretches)).tolist())
    found: list[Tensor] = []
    for start in range(0, len(features), STRANGERS):
        some = features[start : start + STRANGERS]
        found.append(torch.stack([one for one in some if len(one) == len(some[0])]).mean(dim=0))
    return found
