"""MALMEN: Massive Editing for Large Language Models via Meta Learning, arXiv:2311.04661.

MEND's edits of many facts cancel out when they are added up. What each token's edit does to its own key is a shift of
the value there, and the matrix that makes all of these shifts as well as one matrix can is the solution of a least
squares problem:

    S_t = -eta_l delta~_t u~_t^T              MEND's edit for one token                                     # Eq. 1
    d_t = S_t u_t                             what it adds to the value at its own key                      # Eq. 2
    minimise over S   sum_t |S u_t - d_t|^2 + lambda_l |S|^2
    S   = D^T K (K^T K + lambda_l I)^-1 = D^T (K K^T + lambda_l I)^-1 K                                     # Eq. 3

    symbol    shape       meaning
    u_t       (d_in,)     key: what enters matrix l at token t, as it is
    delta_t   (d_out,)    gradient of the fact's loss by what leaves it there
    u~, delta~            the network's, see `catechism.methods.edit.mend` and `catechism.model.hyper.network`
    K         (m, d_in)   the keys of all tokens of all facts, one a row
    D         (m, d_out)  their shifts
    eta_l     ()          step, learnt for each matrix, in its unit (`EditorNetwork.unit`)
    lambda_l  ()          ridge, learnt as its logarithm

The network is trained on batches of edits, all written into one matrix, so that it learns what the facts do to each
other. Training edits are those of `mend`. The smaller of both systems of Eq. 3 is solved, in float64.

Deviation: lambda is learnt as a share of the mean |u|^2, since keys of different models differ in size by orders of
magnitude. Mean and spread of the factors are taken once. Equation numbers are this page's own.
Not implemented: the split of the training into a pass of the network and a pass of the model, which saves memory and
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.hyper.editor import NetworkEditor, Plan
from catechism.model.hyper.factors import Factors
from catechism.model.hyper.network import EditorNetwork
from catechism.model.hyper.training import Course, Written
from catechism.model.target_tokens import check_rate
from catechism.solve.shifts import shift_update
from catechism.types import Catechism

SOURCE = "arXiv:2311.04661"


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of the original code for GPT-J."""

    layer: int  # the last one that is edited
    spread: int = 3  # layers that are edited
    rank: int = 64  # of the network's layers
    eta: float = 0.01  # where the step of every matrix starts, in its unit
    ridge: float = 0.1  # where lambda starts, as a share of the mean |u|^2
    course: Course = Course()
    seed: int = 0

    def __post_init__(self) -> None:
        check_rate("eta", self.eta)
        if not 0 < self.ridge < float("inf"):
            raise BadSpec(f"ridge={self.ridge} is no ridge. Use a number above 0.")
        self.plan()

    def plan(self) -> Plan:
        """What fixes the network."""
        scalars = {"eta": self.eta, "log_ridge": float(torch.tensor(self.ridge).log())}
        return Plan(self.layer, self.spread, self.rank, scalars, self.course, self.seed)


class Malmen:
    """The editor. A network is trained once for each model and settings."""

    name = "malmen"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._editor = NetworkEditor(self.name, background, write)

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One change of every matrix for all facts. The model is not changed. Raises as `NetworkEditor.fit`."""
        return self._editor.delta(live, catechisms, spec)


def write(network: EditorNetwork, factors: Mapping[str, Factors]) -> dict[str, Written]:
    """One change of each matrix for all edits together."""
    written = {}
    for address, gradient in factors.items():
        u, delta = network(address, gradient)
        eta = network.scalar("eta", address) * network.unit(address)
        shifts = -eta * (gradient.u * u).sum(dim=-1, keepdim=True) * delta  # Eq. 1, Eq. 2
        ridge = network.scalar("log_ridge", address).double().exp() * network.energy(address)
        A, B = shift_update(gradient.u[gradient.counted].double(), shifts[gradient.counted].double(), ridge)  # Eq. 3
        written[address] = Written(A.float()[None], B.float()[None])
    return written
