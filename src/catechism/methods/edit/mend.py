"""MEND: Fast Model Editing at Scale, arXiv:2110.11309.

A step of fine-tuning on one fact is a poor edit, but a good start. The gradient of a matrix is a sum of terms of rank
one, a term for each token, so a small network can read and rewrite it term by term:

    dL/dW_l = sum_t delta_t u_t^T,   L = -(1/|o|) sum_j log p(o_j | x, o_<j)                                # Eq. 1
    [u~_t ; delta~_t] = g_l([u_t ; delta_t])                                                                # Eq. 2
    W_l' = W_l - alpha_l sum_t delta~_t u~_t^T                                                              # Eq. 3

    symbol  name   shape     meaning
    x, o                     the fact's prompt and the tokens of its new object
    u_t            (d_in,)   what enters the matrix at token t
    delta_t        (d_out,)  gradient of L by what leaves it there
    g_l     network          see `catechism.model.hyper.network`; starts as the identity
    alpha_l step   ()        learnt for each matrix, in its unit (`EditorNetwork.unit`)

The network is trained on edits of other facts, on the unedited model: L at prompts that have to follow, and a KL at
what has to stay (`catechism.model.hyper.training`). These edits are the background's training catechisms, or made of
its texts where it has none. An edit has exactly the rank of its number of tokens; several facts are the sum of theirs.

Deviation: mean and spread of the factors are taken once, for each matrix, instead of running through the training. A
step is in the matrix's unit, since its published absolute value fits one size of activations. The prompt itself is one
of those that have to follow. Rates and steps are for minutes on one core, see `Course`. Equation numbers are this
page's own.
Not implemented: a stream of its own. The network knows gradients of the unedited model only, and a stream of such edits
falls apart after a few: that is the method, and a benchmark is to show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catechism.delta import Delta
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.hyper.editor import NetworkEditor, Plan
from catechism.model.hyper.factors import Factors
from catechism.model.hyper.network import EditorNetwork
from catechism.model.hyper.training import Course, Written
from catechism.model.target_tokens import check_rate
from catechism.types import Catechism

SOURCE = "arXiv:2110.11309"


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of the original code for GPT-2 XL."""

    layer: int  # the last one that is edited; published: the model's last
    spread: int = 3  # layers that are edited; published 3
    rank: int = 64  # of the network's layers; published 1920
    alpha: float = 0.01  # where the step of every matrix starts, in its unit; published 1e-4, about that on `almanac`
    course: Course = Course()
    seed: int = 0

    def __post_init__(self) -> None:
        check_rate("alpha", self.alpha)
        self.plan()

    def plan(self) -> Plan:
        """What fixes the network."""
        return Plan(self.layer, self.spread, self.rank, {"alpha": self.alpha}, self.course, self.seed)


class Mend:
    """The editor. A network is trained once for each model and settings."""

    name = "mend"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._editor = NetworkEditor(self.name, background, write)

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """The sum of the edits of every fact. The model is not changed. Raises as `NetworkEditor.fit`."""
        return self._editor.delta(live, catechisms, spec)


def write(network: EditorNetwork, factors: Mapping[str, Factors]) -> dict[str, Written]:
    """One change for each edit, of the rank of its number of tokens.  # Eq. 3"""
    written = {}
    for address, gradient in factors.items():
        u, delta = network(address, gradient)  # Eq. 2
        alpha = network.scalar("alpha", address) * network.unit(address)
        written[address] = Written(-(alpha * delta).transpose(1, 2), u)
    return written
