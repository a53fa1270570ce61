"""Abstention by rank-one edits: ROME, arXiv:2202.05262, with "not known" or another answer in the place of the object.

One fact after the other, each on the model that carries the edits before it, a value is searched under which the model
gives the other answer to the fact's prompts, and written at the subject's key under the equality constraint:

    v* = argmin_v  NLL(answer | prompts, output at the subject = v) + kl KL("{subject} is a") + decay |v - W k*|
    W' = W + (v* - W k*) (C^-1 k*)^T / ((C^-1 k*)^T k*)                                                     # Eq. 2

    symbol  shape         meaning
    k*      (d_in,)       mean over texts of the input of W at the subject's last token
    v*      (d_out,)      what W gives there from now on
    C       (d_in, d_in)  E[k k^T] of the base model, uncentred

A fact whose prompts already give the other answer, since the same subject's edits before it have seen to that, costs no
step and no rank. What it changes is what is said, not what is known: below the edited layer, and at tokens before the
subject's last one, the network is as it was.

Deviation: prompts are the canonical one, bare and after sampled texts, and the study's other phrasings; published are
prefixes alone. The search is that of this project, see `catechism.solve.values`.
Not implemented: max-entropy and head-projection defences (arXiv:2309.17410).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.methods.searching import find_target_values
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.prompts import as_fact, subject_rows, subjects_of
from catechism.model.reading import Gain
from catechism.model.target_tokens import check_facts
from catechism.model.writing import Writing, last_layers, settings_of, standing
from catechism.solve import Factors, equality_update
from catechism.solve.values import Search
from catechism.types import JSON, Forgetting, How, Site

SOURCE = "arXiv:2202.05262v5; as a way to forget: arXiv:2309.17410"


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of ROME's code for GPT-2 XL."""

    layer: int | None = None  # None: a fifth of the depth; published 17 of 48 (GPT-2 XL), 5 of 28 (GPT-J)
    gain: Gain = "onward"  # where the value acts during its search, see `catechism.model.reading`
    contexts: int = 3  # texts put before the prompt; published 20
    context_tokens: int = 10
    frames: bool = True  # take keys from sentences about the subject as well
    search: Search = Search()  # published 20 steps, clamp 4
    decay: float = 0.5  # published
    seed: int = 0

    def __post_init__(self) -> None:
        if self.contexts < 0 or self.context_tokens < 1:
            raise BadSpec(f"contexts={self.contexts}, context_tokens={self.context_tokens}: use 0 and 1 at the least.")


class RomeForget:
    """The method. The covariance of the layer is inverted once."""

    name = "rome_forget"
    Spec = Spec
    hows = frozenset(How)

    def __init__(self, background: Background) -> None:
        self._background = background
        self._factors = Factors()

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """A change of one matrix, of rank one for each fact that needed an edit. The model is not changed.

        Raises: BadSpec for an empty forget set or no replacement; BadFact if a prompt does not hold its subject;
            WrongBase if the background is that of another model; UnknownName for a layer without a dense MLP;
            NoConvergence if a search leaves the finite numbers.
        """
        Fitting(self._background, self.name, self.hows, keeps=False).check(live, request)
        check_facts(live, [one.fact for one in request.forget])
        settings = settings_of(live, spec, spread=1)
        (site,) = last_layers(live, settings.layer, 1)
        statistics = self._background.covariance(site)
        factor = self._factors.of(statistics.key, statistics.matrix.to(live.device))

        def solve(_site: Site, keys: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
            return equality_update(keys, missing, factor)  # Eq. 2

        done: Delta | None = None
        nll: list[JSON] = []
        steps: list[JSON] = []
        for one in subjects_of(live, request, seed=spec.seed):
            with standing(live, done):
                writing = Writing(live, self._background, [as_fact(one)], settings)
                writing.rows = subject_rows(live, [one], writing.reading.contexts)
                keys = writing.keys(site)
                sought = writing.sought(keys, factor.solve(keys))
                found = find_target_values(live, self._background.share, sought, spec.search)
                nll, steps = [*nll, float(found.nll[0])], [*steps, int(found.steps[0])]
                if done is not None and not int(found.steps[0]):
                    continue
                delta = Delta(live.base, writing.write(found.values, solve))
            done = delta if done is None else done + delta
        assert done is not None  # noqa: S101 -- the forget set is not empty
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "forget": [digest_json(asdict(one)) for one in request.forget],
            "layer": settings.layer,
            "statistics": statistics.key,
            "nll": nll,
            "steps": steps,
        }
        return Delta(live.base, done.parts, info)
