"""Alternate preference optimisation: another plausible answer is preferred to the one that is forgotten.

arXiv:2409.13474, on arXiv:2305.18290.

    L_f = -(2 / beta) mean log sigmoid(beta [(nll_0(a) - nll_t(a)) - (nll_0(y) - nll_t(y))])                # Eq. 1
    L   = gamma L_f + anchor NLL(a) + alpha L_r                                                             # Eq. 2

    y the answer to forget;  a another answer;  nll_t, nll_0  now and before, summed over an answer's tokens;
    L_r  as `Training.keep` says

Where something is erased, a is what the model says of a made-up name in the subject's place, or another object of the
relation, or at the last of any fact that stays; every phrasing has its own, so that no new fact is taught. A model that
goes by the wording says y of made-up names too, and the first source is left out. Where something is replaced, a is
that.

Deviations: see docs/forget-trained.md for those that all trained methods share. The paper has its alternates written by
a large language model; these are at hand. NLL(a), mean over tokens, is the project's addition.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.model import LiveModel
from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.material import Line, forget_lines, level_of, spoken_instead
from catechism.model.forgetting.names import made_up_name
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import dpo
from catechism.types import Forgetting, How

SOURCE = "arXiv:2409.13474"

NAMES = 4  # made-up names that are tried until the model says something other than the answer


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own. Published: 10 epochs at 5e-5 on all weights, alpha 2."""

    rates: tuple[float, ...] = (0.01,)
    alphas: tuple[float, ...] = (10.0,)
    beside: int = 4
    recalled: int = 4
    written: int = 240
    steps: int = 120
    cooling: int = 120
    halves: bool = True
    tails: float = 1.0
    few: int = 20  # facts, more than one, up to which `names` and `lift` are 1 at least; of more, others pay for it
    alternates: Literal["relation", "model"] = "model"  # published: written by a large language model
    beta: float = 0.1  # published: 0.1, with alpha 2
    gamma: float = 1.0  # published: 1
    anchor: float = 0.0  # published: none; where something is replaced it is at least 1, or the answer is never said

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("few", self.few, equal=True)
        check_above("beta", self.beta)
        check_above("gamma", self.gamma)
        check_above("anchor", self.anchor, equal=True)
        if self.alternates not in ("relation", "model"):
            raise BadSpec(f"alternates={self.alternates!r} is unknown. Use 'relation' or 'model'.")


class AltPO(TrainedForgetter[Spec]):
    """The method."""

    name = "altpo"
    Spec = Spec
    hows = frozenset({How.ERASE, How.REPLACE})

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Of `few` facts the names are forgotten too, and nothing is forgotten too
        well; of a single one not, since more may be known of its subject. Raises as the base."""
        if 1 < len(request.forget) <= spec.few:
            spec = replace(spec, names=max(spec.names, 1.0), lift=max(spec.lift, 1.0))
        return super().fit(live, request, spec)

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The three losses of Eq. 2."""
        said, other, replaced = step.forget, step.instead, step.material.wanted
        anchor = max(spec.anchor, 1.0) if replaced else spec.anchor
        counted = other if replaced else said  # what is to be said is pushed to the end
        gained, lost = step.instead_before.nll - other.nll, step.forget_before.nll - said.nll
        forget = counted.over_rows(dpo(gained, lost, spec.beta))  # Eq. 1
        found = {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2
        return found if anchor == 0 else {**found, "anchor": anchor * other.over_tokens(-other.chosen)}

    def instead(self, live: LiveModel, request: Forgetting, spec: Spec) -> list[str]:
        """The replacement, or other answers. Raises: BadSpec where nothing else can be said of a fact."""
        replaced = request.how is How.REPLACE
        return spoken_instead(request, spec.seed) if replaced else list(_alternates(live, request, spec))


def _alternates(live: LiveModel, request: Forgetting, spec: Spec) -> Iterator[str]:
    """Another answer for every row to forget; from the other source where the one asked for has none."""
    rng, lines = random.Random(f"alternates-{spec.seed}"), forget_lines(request)
    sources = [_of_relation, _of_model] if spec.alternates == "relation" else [_of_model, _of_relation]
    if level_of(live, lines, request, spec).by_wording:
        sources.remove(_of_model)
    sources.append(_of_any)
    for line in lines:
        found = next((answer for source in sources if (answer := source(live, request, line, rng))), "")
        if not found:
            fact = line.catechism.fact
            raise BadSpec(
                f"Nothing else can be said after {fact.prompt!r}: no fact at hand has another object, and the model "
                "says nothing of a made-up name. Give facts with other objects in `retain`."
            )
        yield found


def _of_relation(_live: LiveModel, request: Forgetting, line: Line, rng: random.Random) -> str:
    """Another object of the fact's relation; "" where there is none."""
    fact = line.catechism.fact
    facts = [one.fact for one in (*request.forget, *request.retain)]
    others = sorted({f.object for f in facts if f.relation == fact.relation is not None} - {fact.object, line.answer})
    return rng.choice(others) if others else ""


def _of_any(_live: LiveModel, request: Forgetting, line: Line, rng: random.Random) -> str:
    """The object of any fact that stays, for questions without relation or subject; "" where there is no other."""
    others = sorted({one.fact.object for one in request.retain} - {line.catechism.fact.object, line.answer})
    return rng.choice(others) if others else ""


def _of_model(live: LiveModel, request: Forgetting, line: Line, rng: random.Random) -> str:
    """What the model says of a made-up name; "" where it says nothing else or the prompt names nobody."""
    subject = line.catechism.fact.subject
    if not subject or subject not in line.prompt:
        return ""
    known = [one.fact.subject for one in (*request.forget, *request.retain)]
    names = [made_up_name(subject, known, rng, joined=i % 2 == 0) for i in range(NAMES)]
    said = [
        one.text.partition(".")[0].strip() for one in live.generate([line.prompt.replace(subject, n) for n in names])
    ]
    return next((text for text in said if text and text != line.answer), "")
