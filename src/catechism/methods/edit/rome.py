"""ROME: Locating and Editing Factual Associations in GPT, arXiv:2202.05262v5; the key of R-ROME, arXiv:2403.07175.

A fact (s, r, o) is stored by an MLP's output matrix W as a key-value pair: the key is what enters W at the last token
of the subject s, the value what leaves it. Writing another value v* at the key k* is a constrained least-squares
problem whose solution is of rank one:

    minimise |W' K - V|   subject to   W' k* = v*
    W' = W + Lambda (C^-1 k*)^T,   Lambda = (v* - W k*) / ((C^-1 k*)^T k*)                                  # Eq. 2

    symbol  name        shape        meaning
    k*      key         (d_in,)      mean over contexts of the input of W at the subject's last token        # Eq. 3
    C       covariance  (d_in, d_in) E[k k^T] of the base model, uncentred
    u       direction   (d_in,)      C^-1 k*
    v*-Wk*  value       (d_out,)     found by gradient descent on the likelihood of the new object          # Eq. 4

The original code takes the direction from the mean key but divides by the product with the bare prompt's key; where the
two differ the update explodes. R-ROME uses one key everywhere, and so do we; ``key="original"`` is for comparison.

Deviation: the value is searched with the rank-one update's own effect at every token, ``gain = u.x / u.k*`` for an
input x, instead of a vector added at the subject's last token alone. The forward pass is then that of the edited model,
so what the search reaches is what the edit does, and a leak into other tokens is seen by the loss. ``gain="subject"``
is the published procedure. The key is the mean over sentences that only name the subject as well (`FRAMES`), not over
contexts before one prompt alone: on `almanac` that raises the update's mean gain at the subject in other phrasings from
.76 to .88.
Not implemented: the closed form for several facts in one matrix (that is EMMET); several facts given to `fit` are each
solved on the base model and their updates added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta import Delta, LowRank
from catechism.errors import BadSpec, NoConvergence
from catechism.hashing import digest_json
from catechism.model import Covariance, LiveModel
from catechism.model.background import Background
from catechism.model.contexts import FRAMES, OPENINGS, sample_texts
from catechism.model.targets import Rows, TargetObjective, row_inputs, subject_keys, target_rows
from catechism.solve import DAMPING, Factor, factorise, rank_one
from catechism.solve.values import Search, find_values
from catechism.types import JSON, Catechism, Fact, Role, Site

SOURCE = "arXiv:2202.05262v5; arXiv:2403.07175"


@dataclass(frozen=True)
class Spec:
    """Settings of ROME. Published values are those of the original code for GPT-2 XL."""

    layer: int  # measured: see `catechism.locate.layers`
    key: Literal["mean", "original"] = "mean"  # mean: R-ROME; original: the asymmetric key of the first code
    gain: Literal["update", "subject"] = "update"  # where the value acts during the search, see above
    contexts: int = 3  # texts put before the prompt, beside the bare prompt; published 20
    context_tokens: int = 10  # published 5 and 10
    frames: bool = True  # take the key over sentences about the subject as well, see above
    search: Search = Search()
    kl: float = 0.0625  # weight of KL(before || after) at "{subject} is a"; published 0.0625
    decay: float = 0.5  # weight of |v| / |W k*|^2; published 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.contexts < 0 or self.context_tokens < 1:
            raise BadSpec(f"contexts={self.contexts}, context_tokens={self.context_tokens}: use 0 and 1 at the least.")


class Rome:
    """The editor. The covariance of a layer is inverted once, for all facts."""

    name = "rome"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background
        self._factors: dict[str, Factor] = {}
        self._contexts_of: dict[tuple[int, int, int], list[str]] = {}

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One delta that holds the update of every fact. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject; SingularCovariance if nothing enters the layer; WrongBase
            if the background is that of another model.
        """
        first, *others = self.fit_each(live, catechisms, spec)
        return sum(others, first)

    def fit_each(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> list[Delta]:
        """A delta of its own for every fact, their values searched in one batch. Raises as `fit`, and NoConvergence."""
        if not catechisms:
            raise BadSpec("There is nothing to fit. Give at least one catechism.")
        self._background.check(live)
        site = Site(spec.layer, Role.MLP_OUT)
        facts = [catechism.fact for catechism in catechisms]
        contexts = self._contexts(live, spec)
        rows = target_rows(
            live,
            prompts=[[fact.prompt, *(f"{context} {fact.prompt}" for context in contexts)] for fact in facts],
            targets=[fact.object for fact in facts],
            subjects=[fact.subject for fact in facts],
            kept=[[f"{fact.subject} is a"] for fact in facts],
        )
        statistics, factor = self._factor(live, site)
        keys, bare = self._keys(live, site, facts, contexts, spec)
        directions = factor.solve(keys)  # u = C^-1 k*
        written = keys if spec.key == "mean" else bare
        readers = directions / (directions * written).sum(dim=1, keepdim=True)  # x -> x . u / u . k*
        scale = (keys @ live.anatomy.matrix(site).read().double().T).norm(dim=1).float()  # |W k*|
        gain = _gain(spec, rows, row_inputs(live, site, rows), readers)
        objective = TargetObjective(live, site, rows, gain, kl=spec.kl, decay=spec.decay, scale=scale)
        found = find_values(objective, scale, live.anatomy.matrix(site).shape[0], spec.search)  # v* - W k*, Eq. 4
        if not bool(torch.isfinite(found.nll).all()):
            raise NoConvergence(
                f"The value search left the finite numbers in layer {spec.layer}. Lower `search.lr`, or open the model "
                "in float32."
            )
        address = live.anatomy.matrix(site).address
        deltas = []
        for i, catechism in enumerate(catechisms):
            A, B = rank_one(written[i], found.values[i], directions[i])  # Eq. 2
            info: dict[str, JSON] = {
                "method": self.name,
                "spec": asdict(spec),
                "fact": digest_json(asdict(catechism.fact)),
                "statistics": statistics.key,
                "nll": float(found.nll[i]),
                "steps": int(found.steps[i]),
            }
            deltas.append(Delta(live.base, {address: LowRank(A.float().cpu(), B.float().cpu())}, info))
        return deltas

    @staticmethod
    def _keys(
        live: LiveModel, site: Site, facts: Sequence[Fact], contexts: Sequence[str], spec: Spec
    ) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_in"]]:
        """Mean over all contexts of each fact's key, and the key of its bare prompt.  # Eq. 3"""
        frames = FRAMES if spec.frames else ()
        prompts = [
            [fact.prompt, *(f"{c} {fact.prompt}" for c in contexts), *(frame.format(fact.subject) for frame in frames)]
            for fact in facts
        ]
        subjects = [fact.subject for fact, asked in zip(facts, prompts, strict=True) for _ in asked]
        found = subject_keys(live, [site], [prompt for asked in prompts for prompt in asked], subjects)[site]
        keys = found.unflatten(0, (len(facts), -1))
        return keys.mean(dim=1), keys[:, 0]

    def _contexts(self, live: LiveModel, spec: Spec) -> list[str]:
        wanted = (spec.contexts, spec.context_tokens, spec.seed)
        if wanted not in self._contexts_of:
            openings = [OPENINGS[i % len(OPENINGS)] for i in range(spec.contexts)]
            texts = sample_texts(live, openings, tokens=spec.context_tokens, seed=spec.seed) if openings else []
            self._contexts_of[wanted] = [text if text.endswith(".") else f"{text}." for text in texts]
        return self._contexts_of[wanted]

    def _factor(self, live: LiveModel, site: Site) -> tuple[Covariance, Factor]:
        statistics = self._background.covariance(site)
        if statistics.key not in self._factors:
            self._factors[statistics.key] = factorise(statistics.matrix.to(live.device), damping=DAMPING)
        return statistics, self._factors[statistics.key]


def _gain(
    spec: Spec, rows: Rows, inputs: Float[Tensor, "b t d"], readers: Float[Tensor, "n d"]
) -> Float[Tensor, "b t"]:
    """How much of its fact's value every token gets: that of the update, or all at the subject's last token."""
    if spec.gain == "update":
        effect = torch.einsum("btd,bd->bt", inputs.double(), readers[rows.owner])
        return (effect * rows.attention_mask).to(inputs.dtype)
    gain = torch.zeros(inputs.shape[:2], dtype=inputs.dtype, device=inputs.device)
    gain[torch.arange(len(rows.kept), device=inputs.device), rows.subject] = 1.0
    return gain
