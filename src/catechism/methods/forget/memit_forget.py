"""Abstention in one batch: MEMIT, arXiv:2210.07229, with "not known" or another answer in the place of the objects.

All facts of a subject share its key, so they share a value: one vector under which the model gives the other answer to
every prompt of every fact of the subject. The values of all subjects are written at once, over some layers:

    Delta = R^T K (lambda C + K^T K)^-1                                                                     # Eq. 14

    symbol  shape         meaning
    K       (n, d_in)     keys, one for each subject
    R       (n, d_out)    what of the subjects' values is missing, divided by the number of layers left     # Eq. 20
    C       (d_in, d_in)  E[k k^T] of the base model, uncentred
    lambda  number        how many old keys C stands for, ``ridge * d_in``

Deviation: a value for each subject, and not for each fact: five facts of one person would be five residuals at one key,
of which the regression writes the mean. Prompts that the value is searched on are all canonical ones and the study's.
What it changes is what is said, not what is known, as in `rome_forget`.
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
from catechism.model.writing import Writing, settings_of
from catechism.solve import Factors, ridge_update
from catechism.solve.values import Search
from catechism.types import JSON, Forgetting, How, Site

SOURCE = "arXiv:2210.07229; as a way to forget: arXiv:2309.17410"


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of MEMIT's code."""

    layer: int | None = None  # the last layer that is written; None: a fifth of the depth; published 8 of 28 (GPT-J)
    spread: int | None = None  # layers written; None: a sixth of the depth; published 6 of 28 (GPT-J)
    ridge: float = 0.1  # lambda / d_in; published .92 (GPT-J), 3.1 (GPT-2 XL)
    gain: Gain = "onward"  # where the value acts during its search, see `catechism.model.reading`
    contexts: int = 3  # texts put before the prompt; published 5
    context_tokens: int = 10  # published
    frames: bool = True  # take keys from sentences about the subject as well
    search: Search = Search()  # published clamp .75
    decay: float = 0.5  # published
    seed: int = 0

    def __post_init__(self) -> None:
        if self.contexts < 0 or self.context_tokens < 1:
            raise BadSpec(f"contexts={self.contexts}, context_tokens={self.context_tokens}: use 0 and 1 at the least.")
        if not 0 < self.ridge < float("inf"):
            raise BadSpec(f"ridge={self.ridge}: the old keys need a weight above zero.")


class MemitForget:
    """The method. A layer's covariance is inverted once."""

    name = "memit_forget"
    Spec = Spec
    hows = frozenset(How)

    def __init__(self, background: Background) -> None:
        self._background = background
        self._factors = Factors()

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """A change of each layer's matrix, of the rank of the number of subjects. The model is not changed.

        Raises: BadSpec for an empty forget set or no replacement; BadFact if a prompt does not hold its subject;
            WrongBase if the background is that of another model; UnknownName for a layer without a dense MLP;
            NoConvergence if a search leaves the finite numbers.
        """
        Fitting(self._background, self.name, self.hows, keeps=False).check(live, request)
        check_facts(live, [one.fact for one in request.forget])
        spread = min(5, max(1, live.anatomy.n_layers // 6)) if spec.spread is None else spec.spread
        settings = settings_of(live, spec, spread=spread)
        subjects = subjects_of(live, request, seed=spec.seed)
        writing = Writing(live, self._background, [as_fact(one) for one in subjects], settings)
        writing.rows = subject_rows(live, subjects, writing.reading.contexts)
        statistics = {site: writing.statistics[site] for site in writing.sites}
        factors = {site: self._factors.of(c.key, c.matrix.to(live.device)) for site, c in statistics.items()}

        def solve(site: Site, keys: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
            return ridge_update(keys, missing, factors[site], spec.ridge * keys.shape[1])  # Eq. 14

        keys = writing.keys(writing.sites[-1])
        sought = writing.sought(keys, factors[writing.sites[-1]].solve(keys))
        found = find_target_values(live, self._background.share, sought, spec.search)
        facts: list[JSON] = [digest_json(asdict(one)) for one in request.forget]
        layers: list[JSON] = [site.layer for site in writing.sites]
        said: dict[str, JSON] = {"spec": asdict(spec), "forget": facts, "layers": layers}
        return writing.delta(self.name, writing.write(found.values, solve), found, said)
