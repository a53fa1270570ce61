"""Influential neuron paths, text branch: MIP-Editor, arXiv:2511.06793, as a change of weights and nothing else.

For every prompt to forget the neurons of each MLP are found on which its answer hangs, layer by layer along one path
(`catechism.model.forgetting.paths`, Eq. P1). Prompts that stay are read the same way; a neuron that their answers hang
on as often is left alone. The union over the forget set is edited:

    "zero"    the neuron's column of the MLP's output matrix goes: delta = -W e_j e_j^T                     # Eq. Z
    "steer"   its rows of the MLP's input and gate matrices are trained until states of what is forgotten point to a
              random vector and those of what stays are what they were: RMU's losses on the path's rows alone
                                                                                                            # Eq. S

Published is "steer" with the neurons also held at zero by hooks at run time, which its released code never takes off;
so its figures are of a model with hooks. Here the delta is all there is.

Deviation: see `paths` for the score. `spare` is ours. The steering vector is as in `rmu`: its length is in lengths of a
state (the paper's form), and the run ends when the answers have come down to their level.
Not implemented: the vision branch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from catechism.arch.matrix import Address
from catechism.delta import Delta, LowRank
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.material import Line, Material, forget_lines, material
from catechism.model.forgetting.objective import Objective, Terms, Turn
from catechism.model.forgetting.paths import AT_ONCE, Read, neuron_paths, united
from catechism.model.forgetting.states import Misdirection, States, onward
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training, check_above
from catechism.model.target_tokens import target_tokens
from catechism.types import JSON, Catechism, Forgetting, How, Role, Site

SOURCE = "arXiv:2511.06793"

KEPT = 64  # facts that stay whose paths are read, drawn once


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own, which "zero" does not read but for `layers` and `seed`."""

    edit: Literal["zero", "steer"] = "steer"
    top: int = 5  # neurons of a layer that join a path; code 5, paper 32
    integration: int = 4  # m; code 4
    at: Literal["subject", "last"] = "subject"  # token of the prompt at which neurons are read
    spare: float = 1.0  # a neuron stays if its share of retained paths is this many times that of forgotten ones
    layer: int | None = None  # whose output is steered; None: half of the depth; code 7 of 32
    strength: float = 3.0  # length of the vector in lengths of a state; code 10, absolute
    alphas: tuple[float, ...] = (5.0,)  # published: both losses weigh the same, over states that are not scaled

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("strength", self.strength)
        check_above("spare", self.spare)
        if self.top < 1 or self.integration < 1:
            raise BadSpec(f"top={self.top}, integration={self.integration}: use 1 or more.")


class NeuronPath:
    """The method."""

    name = "neuron_path"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`; BadSpec where no neuron is
        left to edit."""
        self._fitting.check(live, request)
        layers = range(live.anatomy.n_layers) if spec.layers is None else spec.layers
        sites = [site for layer in sorted(layers) if live.anatomy.has(site := Site(layer, Role.MLP_OUT))]
        if not sites:
            raise BadSpec(f"Layers {list(layers)} have no dense MLP. Choose a dense model, or other layers.")
        neurons = _chosen(live, sites, request, spec)
        found: dict[str, JSON] = {str(site.layer): n for site, n in ((s, len(x)) for s, x in neurons.items())}
        if not any(len(some) for some in neurons.values()):
            raise BadSpec("Every neuron on a path serves what stays as well. Raise `top` or `spare`.")
        if spec.edit == "zero":
            parts = {live.anatomy.matrix(s).address: _zeroed(live, s, some) for s, some in neurons.items() if len(some)}
            info: dict[str, JSON] = {
                "method": self.name,
                "spec": asdict(spec),
                "how": request.how.value,
                "forget": [digest_json(asdict(one)) for one in request.forget],
                "retain": digest_json([asdict(one) for one in request.retain]),
                "neurons": found,
            }
            return Delta(live.base, parts, info)
        delta = self._steered(live, request, neurons, spec)
        return Delta(delta.base, delta.parts, {**delta.info, "neurons": found})

    def _steered(
        self, live: LiveModel, request: Forgetting, neurons: dict[Site, Int[Tensor, " u"]], spec: Spec
    ) -> Delta:
        """Eq. S, in side paths whose writers are the path's neurons and stay so."""
        layer = live.anatomy.n_layers // 2 if spec.layer is None else spec.layer
        rows = _rows_of(live, {site: some for site, some in neurons.items() if site.layer <= layer and len(some)})
        if not rows:
            raise BadSpec(f"No neuron on a path lies in layer {layer} or below it. Raise `layer`, `top` or `spare`.")
        layers = tuple(sorted({site.layer for site in neurons if site.layer <= layer}))
        spec = replace(spec, layers=layers, rank=max(len(some) for some in rows.values()))
        asked = material(live, request, spec)
        forget = States(live, layer, [onward(live, line, answer=True) for line in forget_lines(request)])
        moved = Misdirection.towards(forget, asked.retain, strength=spec.strength, seed=spec.seed)

        def prepare(_live: LiveModel, adapters: Adapters, _material: Material) -> None:
            for address, (A, B) in adapters.factors.items():
                with torch.no_grad():
                    A.zero_()
                    A[rows[address], torch.arange(len(rows[address]))] = 1.0
                    B.zero_()

        def direct(turn: Turn) -> tuple[list[Tensor], Terms]:
            terms = turn.terms()
            direction = turn.adam(turn.gradient(turn.weighted(terms)))
            writers = {id(A) for A, _ in turn.step.adapters.factors.values()}
            own = zip(turn.parameters, direction, strict=True)
            return [torch.zeros_like(d) if id(p) in writers else d for p, d in own], terms

        objective = Objective(moved.terms, direct, prepare, only=frozenset(rows))
        return self._fitting.fit_rows(live, request, asked, objective, spec)


def _chosen(live: LiveModel, sites: list[Site], request: Forgetting, spec: Spec) -> dict[Site, Int[Tensor, " u"]]:
    """The neurons of each site on paths to forget, less those that what stays goes through as often."""
    stay = random.Random(f"paths-{spec.seed}").sample(request.retain, min(KEPT, len(request.retain)))
    forget, retain = (_paths(live, sites, [_line(one) for one in some], spec) for some in (request.forget, stay))
    chosen: dict[Site, Int[Tensor, " u"]] = {}
    for site in sites:
        width = live.anatomy.matrix(site).shape[1]
        there = united(forget[site], width, 1)
        used, kept = (
            torch.bincount(torch.cat(some[site]).reshape(-1), minlength=width) / max(1, sum(map(len, some[site])))
            for some in (forget, retain)
        )
        chosen[site] = there[used[there] > spec.spare * kept[there]]
    return chosen


def _line(one: Catechism) -> Line:
    return Line(one.fact.prompt, one.fact.object, one)


def _paths(live: LiveModel, sites: list[Site], lines: Sequence[Line], spec: Spec) -> dict[Site, list[Tensor]]:
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for start in range(0, len(lines), AT_ONCE):
        some = lines[start : start + AT_ONCE]
        asked = target_tokens(live, [line.prompt for line in some], [line.answer for line in some])
        first = [int(asked.tokens[asked.rows == row][0]) for row in range(len(some))]
        if spec.at == "subject":
            first = [live.subject_last(line.prompt, line.catechism.fact.subject) for line in some]
        read = Read(asked, torch.tensor(first, device=live.device))
        for site, path in neuron_paths(live, sites, read, top=spec.top, steps=spec.integration).items():
            found[site].append(path.cpu())
    return found


def _zeroed(live: LiveModel, site: Site, neurons: Int[Tensor, " u"]) -> LowRank:
    """Take the neurons' columns out of an MLP's output matrix.  # Eq. Z"""
    W = live.anatomy.matrix(site).read()
    A = -W[:, neurons.to(W.device)].float().cpu()
    return LowRank(A, torch.eye(W.shape[1])[neurons])


def _rows_of(live: LiveModel, neurons: dict[Site, Int[Tensor, " u"]]) -> dict[str, Int[Tensor, " r"]]:
    """The rows of the linear modules that make these neurons, by address; input and gate may share a module."""
    found: dict[str, Tensor] = {}
    for site, some in neurons.items():
        for role in (Role.MLP_IN, Role.MLP_GATE):
            if not live.anatomy.has(made := Site(site.layer, role)):
                continue
            matrix = live.anatomy.matrix(made)
            name = Address.parse(matrix.address).name
            step, start = matrix.rows.step or 1, matrix.rows.start or 0
            rows = start + step * some
            found[name] = torch.cat([found[name], rows]) if name in found else rows
    return found
