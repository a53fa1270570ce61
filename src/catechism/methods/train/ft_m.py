"""FT-M: fine-tuning of one matrix on the object's tokens alone, a yardstick of arXiv:2401.01286.

One MLP output matrix W is moved by Adam until the model says the new object o after the prompt x. The loss is that of
language modelling with the prompt masked: every token of o is said from the token before it, none of x counts.

    minimise -(1/|o|) sum_j log p(o_j | x, o_<j)                                                            # Eq. 1

    symbol  shape           meaning
    x                       the fact's prompt
    o       (|o|,)          tokens of the new object
    W' - W  (d_out, d_in)   the change, entry by entry, unbounded

Facts are learnt one after the other, each to its end, on top of the earlier ones: the order in which editing benchmarks
fine-tune, and what `ft_bf` does otherwise.

Deviation: the rate is a share of the size of W's entries; the published one is an absolute number.
Not implemented: sampled prefixes before the prompt, which some versions train on as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import repeat

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.target_tokens import check_facts, check_rate, target_tokens
from catechism.model.tuning import TunedMatrix
from catechism.types import JSON, Catechism, Role, Site

SOURCE = "arXiv:2401.01286"


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of EasyEdit's FT for Llama."""

    layer: int  # measured; published 21
    lr: float = 0.02  # of Adam, as a share of W's size; published 5e-4, absolute
    steps: int = 25  # for each fact; published 25
    stop: float = 0.01  # loss at which a fact is done; published 0.01
    seed: int = 0  # nothing is drawn

    def __post_init__(self) -> None:
        check_rate("lr", self.lr)
        if self.steps < 1:
            raise BadSpec(f"steps={self.steps} is too small. Use 1 or more.")
        if not self.stop >= 0:
            raise BadSpec(f"stop={self.stop} is no loss. Use 0 or more.")


class FtM:
    """The trainer."""

    name = "ft_m"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One change of one matrix for all the facts, in their order. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject or an object is empty; BadSpec without facts; WrongBase if
            the background is that of another model; UnknownName for a layer without a dense MLP; UsageError for a
            prompt that does not fit the model's window; NoConvergence if the descent leaves the finite numbers.
        """
        facts = [catechism.fact for catechism in catechisms]
        check_facts(live, facts, needs_subject=False)
        self._background.check(live)
        tuned = TunedMatrix(live, Site(spec.layer, Role.MLP_OUT))
        steps: list[JSON] = []
        for fact in facts:
            asked = target_tokens(live, [fact.prompt], [fact.object])
            taken, _ = tuned.descend(repeat(asked, spec.steps), tuned.adam(spec.lr), stop=spec.stop)  # Eq. 1
            steps.append(taken)
        every = target_tokens(live, [fact.prompt for fact in facts], [fact.object for fact in facts])
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "facts": [digest_json(asdict(fact)) for fact in facts],
            "steps": steps,
            "nll": tuned.nll(every).item(),
        }
        return Delta(live.base, {tuned.address: tuned.part()}, info)
