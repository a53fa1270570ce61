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

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import undial

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


class Undial(TrainedForgetter[Spec]):
    """The method."""

    name = "undial"
    Spec = Spec
    keeps = False

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The loss of Eq. 2, and what is kept."""
        said, before = step.forget, step.forget_distributions()
        forget = said.over_tokens(undial(said.logprobs, before, said.tokens, spec.beta))  # Eq. 1, Eq. 2
        return {"forget": spec.gamma * forget, **step.retained()}
