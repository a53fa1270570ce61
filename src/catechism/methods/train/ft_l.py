"""FT-L: fine-tuning of one matrix inside a small ball, the yardstick of arXiv:2202.05262 and arXiv:2012.00363.

One MLP output matrix W is moved by Adam until the fact is likely, and no entry may leave its neighbourhood:

    minimise -(1/|o|) sum_j log p(o_j | x)   subject to   |W' - W|_inf <= eps                               # Eq. 1

    symbol  name     shape           meaning
    x                                the fact's prompt
    o                (|o|,)          tokens of the new object
    W' - W  change   (d_out, d_in)   entry by entry
    eps     ball                     as a share of the root mean square of W's entries

In the published code all of o's tokens are to be said from the prompt's last token, ``say="last"``: for an object of
several tokens that has no solution, the least loss of k different tokens is log k, and the search never stops early.
It is kept, since that is what published tables call FT-L; ``say="tokens"`` has the loss of FT-M in the same ball.
Facts are learnt one after the other, each to its end, on top of the earlier ones; the ball is around the base's W.

Deviation: rate and ball are shares of the size of W's entries; published are absolute numbers for one model each.
Not implemented: weight decay, and the ball of the two-norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Literal

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.target_tokens import check_facts, check_rate, target_tokens
from catechism.model.tuning import TunedMatrix
from catechism.types import JSON, Catechism, Role, Site

SOURCE = "arXiv:2202.05262; arXiv:2012.00363"


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of the code of arXiv:2202.05262 for GPT-2 XL."""

    layer: int  # measured; published 0
    say: Literal["last", "tokens"] = "last"  # where the object's tokens are said from, see above
    ball: float = 0.1  # eps as a share of W's size; published 5e-4, absolute
    lr: float = 0.02  # of Adam, likewise; published 5e-4, absolute
    steps: int = 25  # for each fact; published 25
    stop: float = 0.01  # loss at which a fact is done; published 0.01
    seed: int = 0  # nothing is drawn

    def __post_init__(self) -> None:
        check_rate("lr", self.lr)
        if not (math.isfinite(self.ball) and self.ball > 0):
            raise BadSpec(f"ball={self.ball} leaves no room. Use a number above 0.")
        if self.steps < 1:
            raise BadSpec(f"steps={self.steps} is too small. Use 1 or more.")
        if not self.stop >= 0:
            raise BadSpec(f"stop={self.stop} is no loss. Use 0 or more.")
        if self.say not in ("last", "tokens"):
            raise BadSpec(f"say={self.say!r} is no place. Use 'last' or 'tokens'.")


class FtL:
    """The trainer."""

    name = "ft_l"
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
        tuned = TunedMatrix(live, Site(spec.layer, Role.MLP_OUT), ball=spec.ball)
        steps: list[JSON] = []
        losses: list[JSON] = []
        for fact in facts:
            asked = target_tokens(live, [fact.prompt], [fact.object], say=spec.say)
            taken, _ = tuned.descend(repeat(asked, spec.steps), tuned.adam(spec.lr), stop=spec.stop)  # Eq. 1
            steps.append(taken)
            losses.append(tuned.nll(asked).item())
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "facts": [digest_json(asdict(fact)) for fact in facts],
            "steps": steps,
            "nll": losses,
        }
        return Delta(live.base, {tuned.address: tuned.part()}, info)
