"""Self-distillation from the model's own distribution with the answer turned down. arXiv:2402.10052.

    target = softmax(logits_0 - beta onehot(y))                                                             # Eq. 1
    L_f    = mean over answer tokens of CE(pi_t, target)                                                    # Eq. 2
    L      = gamma L_f + alpha L_r

    y the answer to forget;  logits_0  of the model as it was;  L_r  as `Training.keep` says

Deviations: see docs/forget-trained.md for those that all trained methods share.
Released code never applies its mask: prompts and padding are distilled too, and the padding label -100 turns down
another token of the vocabulary. Here answer tokens alone count. What is kept is the project's addition.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.delta import Delta
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.objective import Objective, Step, Terms
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import undial
from catechism.types import Forgetting, How

SOURCE = "arXiv:2402.10052"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 10.0  # published: 10
    gamma: float = 1.0  # published: 1, with alpha 0: nothing is kept

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("gamma", self.gamma)


class Undial:
    """The method."""

    name = "undial"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, keeps=False, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`."""
        self._fitting.check(live, request)

        def terms(step: Step) -> Terms:
            said, before = step.forget, step.forget_distributions()
            forget = said.over_tokens(undial(said.logprobs, before, said.tokens, spec.beta))  # Eq. 1, Eq. 2
            return {"forget": spec.gamma * forget, **step.retained()}

        return self._fitting.fit(live, request, Objective(terms), spec)
