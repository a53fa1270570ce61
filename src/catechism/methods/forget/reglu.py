"""Representation-guided low-rank unlearning (ReGLU): side paths that write where only the forgotten goes.

    L = gamma IHL + alpha L_r + lam sum over matrices |A' P|_F^2                                            # Eq. 1
    IHL = mean over answer tokens of max(0, 1 + p_y - max_{v != y} p_v)                                     # Eq. 2
    RILA:  D = (1 - share) C_F - share C_R,  Q  its r first eigenvectors,  A_0 = Q,  B_0 = s Q' W           # Eq. 3
    ROL:   P  the k first eigenvectors of C_R                                                               # Eq. 4

    W (d_out, d_in)  a matrix;  A B (d_out, r) (r, d_in)  its side path;  C_F, C_R  second moments of what the matrix
    gives on rows to forget and to keep, summed over each row's tokens, plus 1e-4 I;  y the answer to forget

The side path begins at A_0 B_0 and the model as it was: published, W makes room for it, W - A_0 B_0. Here W stays, the
beginning is subtracted beside it, and the delta that is exported, A B - A_0 B_0 at twice the rank, fits the model as it
is. ROL holds what is written, the columns of A, off the directions that kept rows take.

Deviations: see docs/forget-trained.md for those that all trained methods share. Released code sums padding into C_F and
C_R; here padding and what the tokenizer puts in front do not count. The names in code are exchanged: its B is our A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from catechism.errors import BadSpec
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.material import Material
from catechism.model.forgetting.objective import Objective, Step, Terms
from catechism.model.forgetting.outputs import summed_outputs
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import forget_directions, inverted_hinge, overlap, retain_directions

SOURCE = "sustech-nlp/ReGLU (released code); arXiv:2408.06621 (IHL)"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    share: float = 0.5  # b of Eq. 3; not published where we could read it
    scale: float = 1.0  # s; published: 2
    kept: int = 32  # k of Eq. 4; published: 128, of widths of 2048 and more; at most half of a matrix's rows
    lam: float = 1.0  # not published where we could read it
    gamma: float = 1.0  # published: 1
    samples: int = 96  # rows of either sort that Eq. 3 and Eq. 4 are taken from; published: 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise BadSpec(f"share={self.share} is out of range. Use a number from 0 to 1.")
        check_above("scale", self.scale)
        check_above("kept", self.kept, 1, equal=True)
        check_above("lam", self.lam, equal=True)
        check_above("gamma", self.gamma)
        check_above("samples", self.samples, 1, equal=True)


class ReGLU(TrainedForgetter[Spec]):
    """The method."""

    name = "reglu"
    Spec = Spec

    def terms(self, step: Step, spec: Spec, apart: Mapping[str, Tensor] = {}) -> Terms:
        """The three losses of Eq. 1; `apart` has P of every matrix."""
        said = step.forget
        forget = said.over_tokens(inverted_hinge(said.logprobs, said.tokens))  # Eq. 2
        written = torch.stack([overlap(A, apart[address]) for address, (A, _) in step.adapters.factors.items()])
        return {"forget": spec.gamma * forget, **step.retained(), "apart": spec.lam * written.sum()}  # Eq. 1

    def objective(self, spec: Spec) -> Objective:
        """With what is made before the first step. Raises then: BadSpec for a rank above the rows of a matrix."""
        apart: dict[str, Tensor] = {}

        def prepare(live: LiveModel, adapters: Adapters, rows: Material) -> None:
            apart.update(begin(live, adapters, rows, spec))

        return Objective(lambda step: self.terms(step, spec, apart), prepare=prepare)


def begin(live: LiveModel, adapters: Adapters, rows: Material, spec: Spec) -> dict[str, Tensor]:
    """Give every side path its beginning (Eq. 3); gives P of every matrix, ``(d_out, k)`` (Eq. 4).

    Raises: BadSpec for a rank above the rows of a matrix, and for rows with nothing to keep.
    """
    if rows.retain is None:
        raise BadSpec("reglu needs rows to keep. Give facts in `retain`.")
    forget = summed_outputs(live, rows.forget, adapters.factors, samples=spec.samples, seed=spec.seed)
    retain = summed_outputs(live, rows.retain, adapters.factors, samples=spec.samples, seed=spec.seed)
    starts: dict[str, tuple[Tensor, Tensor]] = {}
    apart: dict[str, Tensor] = {}
    for address, (A, _) in adapters.factors.items():
        Q = forget_directions(forget[address], retain[address], spec.rank, spec.share).to(A)
        starts[address] = Q, spec.scale * Q.T @ live.anatomy.matrix(address).read().to(A)
        apart[address] = retain_directions(retain[address], min(spec.kept, len(A) // 2)).to(A)
    adapters.start(starts)
    return apart
